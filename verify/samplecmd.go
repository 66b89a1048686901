package verify

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const sampleUsage = `usage: %[1]s PACK --population NAME [--seed TEXT -n NUMBER [--stratum NAME]...] [--pick ROW]... [-o FILE]

Draws rows of a population of an evidence pack, offline, in a way that anyone
who has the file and the pack draws them again.

  --population NAME  of pop/, for example commands
  --seed TEXT        yours, chosen once you have the pack: nobody could arrange
                     the population for it (openssl rand -hex 16)
  -n NUMBER          rows to draw of each stratum
  --stratum NAME     all (if none is named), privileged, denied, break-glass, or
                     quarter, which is one for each quarter of the year
  --pick ROW         a row of your choice, by its id; it is marked judgmental
  --recipient KEY    your age recipient, if you need what is sealed of the rows
                     (age-keygen makes one); the file is then the request
  -o FILE            where to write it (samples/ID.json)

Verify the pack first: %[2]s PACK --trust FILE. Afterwards
%[2]s PACK --trust FILE --sample samples/ID.json draws the rows again.
`

// SampleMain is the command line of exhibit-verify sample and of exhibit sample.
// It returns the exit code.
func SampleMain(name, verifyName string, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprintf(stderr, sampleUsage, name, verifyName) }
	var p SampleParams
	flags.StringVar(&p.Population, "population", "", "")
	flags.StringVar(&p.Seed, "seed", "", "")
	flags.IntVar(&p.N, "n", 0, "")
	flags.Func("stratum", "", func(s string) error { p.Strata = append(p.Strata, s); return nil })
	flags.Func("pick", "", func(s string) error { p.Picked = append(p.Picked, s); return nil })
	flags.StringVar(&p.Recipient, "recipient", "", "")
	output := flags.String("o", "", "")
	paths, err := parseArgs(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return ExitPass
	case err != nil:
		return ExitUnusable
	case len(paths) != 1 || p.Population == "":
		flags.Usage()
		return ExitUnusable
	}
	s, path, err := drawFile(paths[0], p, *output)
	if err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return ExitUnusable
	}
	if err := s.writeText(stdout, path); err != nil {
		fmt.Fprintln(stderr, "error: writing the sample:", err)
		return ExitUnusable
	}
	return ExitPass
}

// drawFile draws a sample and writes its file.
func drawFile(packPath string, p SampleParams, output string) (*Sample, string, error) {
	pack, closer, err := Open(packPath)
	if err != nil {
		return nil, "", err
	}
	s, err := DrawSample(pack, p)
	if err := errors.Join(err, closer.Close()); err != nil {
		return nil, "", err
	}
	if output == "" {
		output = filepath.Join("samples", s.ID+".json")
		if err := os.MkdirAll("samples", 0o700); err != nil {
			return nil, "", fmt.Errorf("making the folder of samples: %w", err)
		}
	}
	return s, output, s.write(output)
}

// write writes the file, which must not be there yet: it may hold findings.
func (s *Sample) write(path string) error {
	b, err := s.Encode()
	if err != nil {
		return fmt.Errorf("encoding the sample: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing the sample: %w", err)
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// writeText says what was drawn.
func (s *Sample) writeText(w io.Writer, path string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Wrote %s: %s of the %d of %s (sha256 %s)\n", path, plural(len(s.Rows), "row", "rows"), s.Population.Rows, s.Population.Path, s.Population.SHA256)
	for _, d := range s.Draws {
		fmt.Fprintf(&b, "  %-12s %d of %s\n", d.Stratum, len(d.IDs), plural(int(d.Rows), "row", "rows"))
	}
	if len(s.Judgmental) > 0 {
		fmt.Fprintf(&b, "  %-12s %d\n", "judgmental", len(s.Judgmental))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// readSample reads a sample's file.
func readSample(path string) (*Sample, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the sample: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSampleFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the sample: %w", err)
	case len(b) > maxSampleFile:
		return nil, fmt.Errorf("%w: %s is larger than %d MiB", ErrSample, path, maxSampleFile>>20)
	}
	s, err := ParseSample(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// sampleFiles are the files of a sample and of the answer to it.
type sampleFiles struct{ sample, answer string }

func (f *sampleFiles) read() (*Sampled, error) {
	s, err := readSample(f.sample)
	if err != nil || f.answer == "" {
		return &Sampled{Sample: s}, err
	}
	r, err := os.Open(f.answer)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	defer r.Close()
	a, err := ReadAnswer(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.answer, err)
	}
	return &Sampled{Sample: s, Answer: a}, nil
}
