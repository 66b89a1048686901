package verify

import (
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

const usage = `usage: %s PACK --trust FILE | --log-key KEY [--tsa-ca FILE] [--sample FILE [--answer FILE]]...
       [--json] [--remember]

Checks an evidence pack (a zip file or a folder) offline.

  --trust FILE  what you believe: the log's key, witnesses, checkpoints you kept.
                Don't take it from whoever gave you the pack.
  --log-key KEY a key of the log that you believe, beside or instead of a file
  --tsa-ca FILE roots, as PEM, of the time stamp authorities that you believe;
                one of them must have stamped the log
  --sample FILE a sample of the pack, to be drawn again
  --answer FILE what the gateway opened for the sample before it, decrypted
                (age --decrypt --identity KEY ANSWER > FILE)
  --json        the report as JSON
  --remember    after a pass, keep the log's checkpoint in the trust file

exit code: 0 the evidence is sound and no control test has exceptions,
           1 it isn't or they have, 2 nothing could be said
`

// Main is the command line of exhibit-verify and of exhibit verify. It returns
// the exit code.
func Main(name string, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprintf(stderr, usage, name) }
	trust := flags.String("trust", "", "")
	tsaCA := flags.String("tsa-ca", "", "")
	var logKeys []string
	flags.Func("log-key", "", func(key string) error { logKeys = append(logKeys, key); return nil })
	var samples []sampleFiles
	flags.Func("sample", "", func(path string) error { samples = append(samples, sampleFiles{sample: path}); return nil })
	flags.Func("answer", "", func(path string) error {
		if len(samples) == 0 || samples[len(samples)-1].answer != "" {
			return errors.New("an answer comes after its sample")
		}
		samples[len(samples)-1].answer = path
		return nil
	})
	asJSON := flags.Bool("json", false, "")
	remember := flags.Bool("remember", false, "")
	paths, err := parseArgs(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return ExitPass
	case err != nil:
		return ExitUnusable
	case len(paths) != 1 || *trust == "" && (len(logKeys) == 0 || *remember):
		flags.Usage()
		return ExitUnusable
	}
	shown := newProgress(stderr)
	report, err := verifyFile(paths[0], *trust, *tsaCA, logKeys, samples, *remember, shown.tell)
	shown.clear()
	if err != nil {
		fmt.Fprintln(stderr, "error:", err)
		if errors.Is(err, ErrTrust) {
			fmt.Fprintln(stderr, "hint: a trust file is JSON with the log's key, like {\"log\": [\"example.com/gw1+0a1b2c3d+AYq...\"]}")
		}
		return ExitUnusable
	}
	write := report.WriteText
	if *asJSON {
		write = report.WriteJSON
	}
	if err := write(stdout); err != nil {
		fmt.Fprintln(stderr, "error: writing the report:", err)
		return ExitUnusable
	}
	return report.ExitCode()
}

// parseArgs parses flags that stand before or after the pack.
func parseArgs(flags *flag.FlagSet, args []string) (paths []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			return paths, nil
		}
		paths = append(paths, flags.Arg(0))
		args = flags.Args()[1:]
	}
}

func verifyFile(path, trustPath, tsaPath string, logKeys []string, sampled []sampleFiles, remember bool, tell func(done, total uint64)) (*Report, error) {
	believed, err := readTrust(trustPath)
	if err != nil {
		return nil, err
	}
	given := *believed // what the command line adds is for this once
	given.Log = append(given.Log[:len(given.Log):len(given.Log)], logKeys...)
	trust, err := given.Trust()
	if err != nil {
		return nil, err
	}
	if tsaPath != "" {
		if trust.TSA, err = readRoots(tsaPath); err != nil {
			return nil, err
		}
	}
	var samples []*Sampled
	for _, f := range sampled {
		s, err := f.read()
		if err != nil {
			return nil, err
		}
		samples = append(samples, s)
	}
	pack, closer, err := Open(path)
	if err != nil {
		return nil, err
	}
	report, err := PackWith(tell, pack, trust, samples...)
	if err := errors.Join(err, closer.Close()); err != nil {
		return nil, err
	}
	if remember && report.ExitCode() == ExitPass {
		if err := rememberIn(trustPath, believed, report); err != nil {
			return nil, err
		}
	}
	return report, nil
}

// readRoots reads a PEM file of certificates.
func readRoots(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the time stamp authorities' roots: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return roots, nil
}

// readTrust reads a trust file; without one nothing is believed yet.
func readTrust(path string) (*TrustFile, error) {
	if path == "" {
		return NewTrustFile(), nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the trust file: %w", err)
	}
	return ParseTrustFile(text)
}

// rememberIn writes the checkpoint into the trust file.
func rememberIn(path string, f *TrustFile, r *Report) error {
	f.Remember(*r.Checkpoint)
	b, err := f.Encode()
	if err != nil {
		return fmt.Errorf("encoding the trust file: %w", err)
	}
	next := path + ".new"
	if err := os.WriteFile(next, b, 0o600); err != nil {
		return fmt.Errorf("keeping the checkpoint: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("keeping the checkpoint: %w", err)
	}
	return nil
}
