// Package push puts what people read of a pack into evidence libraries: the
// workbook and the printed README.
//
// In flow a pack; out flow requests to the library's API. A file is named by the
// pack that it is of, so that a push can be repeated: what is there already is
// left alone. A token reaches one host and no error.
package push

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"path"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/verify"
)

// Library is an evidence library.
type Library interface {
	// Has returns which files are there. Known is false where the library can't be
	// asked.
	Has(ctx context.Context, s *Set) (there map[string]bool, known bool, err error)
	// Put uploads a file and returns its id. An error that wraps ErrUnclear leaves
	// open whether it is there.
	Put(ctx context.Context, s *Set, f *File) (id string, err error)
	// Finish makes evidence of what was put, with the ids that Put returned by the
	// names of files; there is none of files that were there before. It may come
	// again for what is evidence already.
	Finish(ctx context.Context, s *Set, ids map[string]string) (id string, err error)
}

// ErrUnclear is wrapped where a request was sent and no answer came: it may have
// been carried out.
var ErrUnclear = errors.New("no answer came, so it may have been taken")

// Set is what is uploaded of one pack.
type Set struct {
	ID    string // of the pack: the digest of its manifest, in hex
	Title string
	About string // who made it, of what, and how to check it
	At    time.Time
	Files []*File
}

// File is a file of a pack under the name that it has in libraries.
type File struct {
	Name   string
	Type   string // media type
	Bytes  int64
	SHA256 string
	Open   func() (io.ReadCloser, error)
}

// MaxBytes is the most that a file may have: what the narrowest library that we
// know of takes (AWS Audit Manager).
const MaxBytes = 100 << 20

// types are the media types of what is uploaded. Each library takes both.
var types = map[string]string{
	".pdf":  "application/pdf",
	".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}

// maxManifest is a verifier's limit (docs/spec/pack.md).
const maxManifest = 64 << 20

// Of reads what is to be uploaded of a pack, and holds it against the manifest. A
// pack without a printed README has the workbook alone.
func Of(pack fs.FS) (*Set, error) {
	f, err := pack.Open(verify.ManifestFile)
	if err != nil {
		return nil, fmt.Errorf("reading the pack: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading the pack: %w", err)
	}
	var m verify.Manifest
	if err := json.Unmarshal(text, &m); err != nil || len(text) > maxManifest {
		return nil, errors.New("the manifest cannot be read: this is no pack")
	}
	at, err := time.Parse(time.RFC3339, m.Params.To)
	if err != nil {
		return nil, errors.New("the manifest has no period: this is no pack")
	}
	sum := sha256.Sum256(text)
	s := &Set{ID: hex.EncodeToString(sum[:]), At: at.UTC()}
	period := day(m.Params.From) + " to " + day(m.Params.To)
	s.Title = fmt.Sprintf("Access by agents, %s, %s (pack %.12s)", m.Gateway, period, s.ID)
	s.About = fmt.Sprintf("Management evidence of access by agents through gateway %s, %s. It stands for an evidence pack with the manifest digest SHA-256 %s, of log %s, which an auditor checks offline with exhibit-verify.", m.Gateway, period, s.ID, m.Origin)
	for _, name := range []string{verify.SummaryFile, verify.PrintFile} {
		file, err := take(pack, &m, s.ID, name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && name == verify.PrintFile:
		case err != nil:
			return nil, err
		default:
			s.Files = append(s.Files, file)
		}
	}
	return s, nil
}

func day(t string) string {
	date, _, _ := strings.Cut(t, "T")
	return date
}

// take reads a file of the pack once, to see that it is the one in the manifest.
func take(pack fs.FS, m *verify.Manifest, id, name string) (*File, error) {
	f := &File{
		Name: fmt.Sprintf("exhibit-%s-%s-%s-%.12s-%s", m.Gateway, day(m.Params.From), day(m.Params.To), id, path.Base(name)),
		Type: types[path.Ext(name)], Open: func() (io.ReadCloser, error) { return pack.Open(name) },
	}
	want := ""
	for _, e := range m.Files {
		if e.Path == name {
			want = e.SHA256
		}
	}
	if want == "" {
		return nil, fmt.Errorf("the pack has no %s: %w", name, fs.ErrNotExist)
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("reading the pack: %w", err)
	}
	sum := sha256.New()
	f.Bytes, err = io.Copy(sum, io.LimitReader(r, MaxBytes+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("reading %s of the pack: %w", name, err)
	}
	f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	switch {
	case f.Bytes > MaxBytes:
		return nil, fmt.Errorf("%s has more than %d MiB, which libraries don't take: make packs of shorter periods", name, MaxBytes>>20)
	case f.SHA256 != want:
		return nil, fmt.Errorf("%s is not the file that the manifest names: exhibit verify says what is wrong with the pack", name)
	}
	return f, nil
}

// tries is how often a file is put whose upload stays unclear, where the library
// can be asked what it has.
const tries = 3

// Done is a file that is in a library.
type Done struct {
	Name string `json:"name"`
	ID   string `json:"id,omitempty"`
	Had  bool   `json:"had,omitempty"` // it was there before
}

// Push puts all files of a set and makes evidence of them. It may be repeated.
func Push(ctx context.Context, l Library, s *Set) (list []Done, evidence string, err error) {
	there, known, err := l.Has(ctx, s)
	if err != nil {
		return nil, "", err
	}
	ids := make(map[string]string)
	for _, f := range s.Files {
		if there[f.Name] {
			list = append(list, Done{Name: f.Name, Had: true})
			continue
		}
		id, err := put(ctx, l, s, f, known)
		if err != nil {
			return list, "", fmt.Errorf("uploading %s: %w", f.Name, err)
		}
		list, ids[f.Name] = append(list, Done{Name: f.Name, ID: id}), id
	}
	evidence, err = l.Finish(ctx, s, ids)
	if err != nil {
		return list, "", fmt.Errorf("making evidence of what was uploaded: %w", err)
	}
	return list, evidence, nil
}

// put puts a file. Where that stays unclear it asks whether the file is there
// before it tries again.
func put(ctx context.Context, l Library, s *Set, f *File, known bool) (id string, err error) {
	for range tries {
		if id, err = l.Put(ctx, s, f); !known || !errors.Is(err, ErrUnclear) {
			return id, err
		}
		there, _, e := l.Has(ctx, s)
		if e != nil {
			return "", errors.Join(err, e)
		}
		if there[f.Name] {
			return "", nil
		}
	}
	return "", err
}

func extension(name string) string { return path.Ext(name) }

// disposition is the Content-Disposition of a form field with a file (RFC 7578).
func disposition(field, name string) string {
	return mime.FormatMediaType("form-data", map[string]string{"name": field, "filename": name})
}
