package demo

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// alter copies a pack and changes one byte of its list of commands: of the
// first refusal, as somebody might who would like the list better without.
func alter(pack, altered string) (err error) {
	in, err := zip.OpenReader(pack)
	if err != nil {
		return fmt.Errorf("reading the pack: %w", err)
	}
	defer in.Close()
	f, err := os.Create(altered)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := zip.NewWriter(f)
	for _, entry := range in.File {
		if err := copyEntry(out, entry); err != nil {
			return fmt.Errorf("copying %s: %w", entry.Name, err)
		}
	}
	return out.Close()
}

func copyEntry(out *zip.Writer, entry *zip.File) error {
	r, err := entry.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if entry.Name == "pop/commands.csv" {
		next := bytes.Replace(b, []byte(",deny,"), []byte(",denY,"), 1)
		if bytes.Equal(b, next) {
			return errors.New("it has no refusal")
		}
		b = next
	}
	header := entry.FileHeader
	w, err := out.CreateHeader(&zip.FileHeader{Name: header.Name, Method: header.Method, Modified: header.Modified})
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}
