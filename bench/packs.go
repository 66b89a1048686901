package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
)

// packsSuite compares packs of logs of several lengths: the first is what the
// others are compared with, and a cost that is linear is a ratio of about one.
var packsSuite = suite{
	name: "Packs", workloads: packsWorkloads,
	method: `- Logs of 100,000, a million and ten million commands on disk: sessions of a hundred commands by agents with grants, one command in a thousand refused. Each has about two records and a bit per command.
- Making: a pack of all of a log by the code that a gateway makes them with, with marks every half minute to go on from, in a process of its own. Verification: exhibit-verify, in a process of its own. Records per second of processor time, user and system; memory is the most that the process ever had (getrusage).
- Fixed costs (fonts, the first rows of the workbook, caches that fill) weigh on the shortest log.
`,
	start: func(ctx context.Context, dir string, o options) (*bed, error) {
		b := &bed{} // no server is asked
		verifier, err := filepath.Abs(filepath.Join(filepath.Dir(o.exhibit), "exhibit-verify"))
		if err != nil {
			return b, err
		}
		if _, err := os.Stat(verifier); err != nil {
			return b, fmt.Errorf("%w\nhint: make build makes it", err)
		}
		trust, err := verify.NewTrustFile(packtest.New().VerifierKey()).Encode()
		if err != nil {
			return b, err
		}
		if err := writeFiles(dir, map[string]string{"trust.json": string(trust)}); err != nil {
			return b, err
		}
		for _, commands := range o.plan().packs {
			log := filepath.Join(dir, strconv.Itoa(commands))
			name := fmt.Sprintf("%s commands", thousands(commands))
			progress("writing a log of %s", name)
			if _, err := spent(ctx, os.Args[0], "-log", log+"="+strconv.Itoa(commands)); err != nil {
				return b, err
			}
			b.targets = append(b.targets, &target{name: name, log: log, verifier: verifier})
		}
		return b, nil
	},
}

// thousands writes a number as people read it.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

func packsWorkloads(plan) []workload {
	return []workload{
		{name: "making a pack", rounds: 1, run: func(ctx context.Context, t *target) ([]figure, error) {
			s, err := spent(ctx, os.Args[0], "-pack", t.log+"="+t.log+".zip")
			if err != nil {
				return nil, err
			}
			records, err := strconv.Atoi(strings.TrimSpace(s.output))
			if err != nil {
				return nil, err
			}
			info, err := os.Stat(t.log + ".zip")
			if err != nil {
				return nil, err
			}
			return append(s.figures(records), figure{name: "size", unit: "MiB", value: float64(info.Size()) / (1 << 20)}), nil
		}},
		{name: "verifying it", rounds: 1, run: func(ctx context.Context, t *target) ([]figure, error) {
			s, err := spent(ctx, t.verifier, t.log+".zip", "--trust", filepath.Join(filepath.Dir(t.log), "trust.json"), "--json")
			r, readErr := readReport(s.output)
			if err := errors.Join(err, readErr); err != nil {
				return nil, err
			}
			return s.figures(int(r.Pack.Range.Records)), nil
		}},
	}
}

func (u usage) figures(records int) []figure {
	return []figure{
		{unit: "records/s of a processor", more: true, value: float64(records) / u.processor.Seconds()},
		{name: "by the clock", unit: "records/s", more: true, value: float64(records) / u.clock.Seconds()},
		{name: "memory", unit: "MiB", value: float64(u.peak) / (1 << 20)},
	}
}

// runLog writes a log: spec is folder=commands.
func runLog(spec string) error {
	folder, n, _ := strings.Cut(spec, "=")
	commands, err := strconv.Atoi(n)
	if err != nil {
		return fmt.Errorf("log %q: want folder=commands", spec)
	}
	return packtest.Folder(folder).Fill(commands)
}

// runPack makes a pack of a whole log, and says of how many records: spec is
// folder=file.
func runPack(ctx context.Context, spec string) error {
	folder, name, ok := strings.Cut(spec, "=")
	if !ok {
		return fmt.Errorf("pack %q: want folder=file", spec)
	}
	kept := folder + ".kept"
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	day := 24 * time.Hour
	noon := time.UnixMicro(packtest.Noon).UTC()
	r, err := pack.Create(ctx, packtest.Folder(folder).Source(), pack.Params{
		From: noon.Add(-day), To: noon.Add(1000 * day), By: packtest.Alice, Organisation: "Benchmark",
		Keep: pack.Keeping{Dir: kept, Request: "all of it", Every: 30 * time.Second},
	}, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if _, err := os.Stat(kept); !errors.Is(err, fs.ErrNotExist) {
		return errors.New("something is kept of a pack that is made")
	}
	fmt.Println(r.Manifest.Range.Records)
	return nil
}
