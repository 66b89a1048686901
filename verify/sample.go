package verify

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// SampleAlgorithm is how rows are drawn. rank, population digest and HMAC are
// bytes; seed and row id are UTF-8.
const SampleAlgorithm = "rank = HMAC-SHA256(seed, population_digest || 0x00 || row_id); of each stratum the n smallest"

// Sample is a file samples/ID.json: rows that an auditor drew of a population
// or picked, for whoever draws them again, and for the auditor's findings.
type Sample struct {
	Version    int              `json:"version"`
	ID         string           `json:"id"`
	Pack       SamplePack       `json:"pack"`
	Population SamplePopulation `json:"population"`
	Algorithm  string           `json:"algorithm"`
	Seed       string           `json:"seed,omitempty"`
	N          int              `json:"n"`      // of each stratum
	Strata     []string         `json:"strata"` // asked for
	Draws      []workpaper.Draw `json:"draws"`
	Judgmental []string         `json:"judgmental,omitempty"` // rows that the auditor picked
	Recipient  string           `json:"recipient,omitempty"`  // age recipient of the auditor, for what is sealed
	Rows       []SampledRow     `json:"rows"`                 // in order of the population
}

// SamplePack is the pack that a sample is of.
type SamplePack struct {
	Origin   string `json:"origin"`
	Gateway  string `json:"gateway"`
	From     string `json:"from"`
	To       string `json:"to"`
	Manifest string `json:"manifest"` // sha256 of manifest.json, hex
}

// SamplePopulation is the file that a sample is of.
type SamplePopulation struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"` // hex; its bytes are the population digest
	Rows   int64  `json:"rows"`
}

// SampledRow is one row of a sample. Result and note are the auditor's.
type SampledRow struct {
	ID         string              `json:"id"`
	Strata     []string            `json:"strata,omitempty"` // that it was drawn of
	Judgmental bool                `json:"judgmental,omitempty"`
	Records    []evidence.Position `json:"records"` // whose sealed parts belong to it
	Result     string              `json:"result"`
	Note       string              `json:"note"`
}

// SampleParams says what to draw.
type SampleParams struct {
	Population string
	Seed       string
	N          int
	Strata     []string // none is all rows as one
	Picked     []string
	Recipient  string
}

// Limits on a sample and what is said of one.
const (
	maxSampleFile = 64 << 20
	maxSeedText   = 1024
	maxPicked     = 10_000
	maxRow        = 16 << 20 // a line of JSON lines
)

// ErrSample is wrapped by what is wrong with a sample, or with what one is to be.
var ErrSample = errors.New("not a sample that can be drawn")

func (p *SampleParams) check() error {
	switch {
	case p.N < 0 || p.N > workpaper.MaxSample:
		return fmt.Errorf("%w: %d rows; 1 to %d can be drawn of a stratum", ErrSample, p.N, workpaper.MaxSample)
	case p.N > 0 && p.Seed == "":
		return fmt.Errorf("%w: it needs a seed, which is yours to choose once you have the pack", ErrSample)
	case len(p.Seed) > maxSeedText || len(p.Picked) > maxPicked:
		return fmt.Errorf("%w: a seed has at most %d bytes, and %d rows can be picked", ErrSample, maxSeedText, maxPicked)
	case p.N == 0 && len(p.Picked) == 0:
		return fmt.Errorf("%w: neither a number of rows nor a picked one", ErrSample)
	case p.N == 0 && len(p.Strata)+len(p.Seed) > 0:
		return fmt.Errorf("%w: nothing is drawn, so strata and seed mean nothing", ErrSample)
	}
	return nil
}

// DrawSample draws rows of a population of a pack. It checks that the population
// is the one in the manifest, and nothing else of the pack: that is for Pack.
func DrawSample(pack fs.FS, p SampleParams) (*Sample, error) {
	s, _, err := drawSample(pack, p)
	return s, err
}

func drawSample(pack fs.FS, p SampleParams) (*Sample, *Manifest, error) {
	if err := p.check(); err != nil {
		return nil, nil, err
	}
	table, err := workpaper.Population(p.Population)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSample, err)
	}
	encoded, err := readSmall(pack, ManifestFile, maxManifest)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the pack's manifest: %w", err)
	}
	m, err := parseManifest(encoded)
	if err != nil {
		return nil, nil, err
	}
	path := TablePath(table.Name) + ".jsonl"
	i := slices.IndexFunc(m.Files, func(f File) bool { return f.Path == path })
	if i < 0 {
		return nil, nil, fmt.Errorf("the pack has no %s", path)
	}
	s := &Sample{
		Version: 1, Algorithm: SampleAlgorithm, Seed: p.Seed, N: p.N, Strata: p.Strata, Judgmental: slices.Sorted(slices.Values(p.Picked)), Recipient: p.Recipient,
		Pack:       SamplePack{m.Origin, m.Gateway, m.Params.From, m.Params.To, hexSum(encoded)},
		Population: SamplePopulation{table.Name, path, m.Files[i].SHA256, m.Files[i].Rows},
	}
	if len(s.Strata) == 0 && s.N > 0 {
		s.Strata = []string{workpaper.StratumAll}
	}
	if s.Strata == nil {
		s.Strata = []string{}
	}
	if err := s.draw(pack, table); err != nil {
		return nil, nil, err
	}
	digest := s.Digest()
	s.ID = fmt.Sprintf("%s-%x", table.Name, digest[:6])
	return s, m, nil
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// draw reads the population twice: once for the ranks, once for the rows that
// were drawn.
func (s *Sample) draw(pack fs.FS, t *workpaper.Table) error {
	digest, err := hex.DecodeString(s.Population.SHA256)
	if err != nil || len(digest) != sha256.Size {
		return fmt.Errorf("%w: the manifest's digest of the population is none", ErrSample)
	}
	sampler, err := workpaper.NewSampler(t, [sha256.Size]byte(digest), s.Seed, s.N, s.Strata)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSample, err)
	}
	if err := s.eachRow(pack, t, sampler.Row); err != nil {
		return err
	}
	s.Draws = sampler.Draws()
	if s.Draws == nil {
		s.Draws = []workpaper.Draw{}
	}
	strata := make(map[string][]string) // of what is sampled
	for _, d := range s.Draws {
		for _, id := range d.IDs {
			strata[id] = append(strata[id], d.Stratum)
		}
	}
	picked := make(map[string]bool)
	for i, id := range s.Judgmental {
		if picked[id] = true; i > 0 && s.Judgmental[i-1] == id {
			return fmt.Errorf("%w: row %.120q is picked twice", ErrSample, id)
		}
	}
	s.Rows = []SampledRow{}
	err = s.eachRow(pack, t, func(id string, cells []string) error {
		if of := strata[id]; of != nil || picked[id] {
			s.Rows = append(s.Rows, SampledRow{ID: id, Strata: of, Judgmental: picked[id], Records: positions(workpaper.RowRecords(t, cells))})
			delete(picked, id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id := range picked {
		return fmt.Errorf("%w: %s has no row %.120q", ErrSample, s.Population.Name, id)
	}
	return nil
}

// positions is list, as an empty list and not as none.
func positions(list []evidence.Position) []evidence.Position {
	return append([]evidence.Position{}, list...)
}

// eachRow calls fn for every row of the population, which must be the one in
// the manifest.
func (s *Sample) eachRow(pack fs.FS, t *workpaper.Table, fn func(id string, cells []string) error) error {
	f, err := pack.Open(s.Population.Path)
	if err != nil {
		return fmt.Errorf("reading the population: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	lines := bufio.NewScanner(io.TeeReader(f, h))
	lines.Buffer(nil, maxRow)
	rows := int64(0)
	cells := make([]string, len(t.Columns))
	for lines.Scan() {
		if err := decodeRow(lines.Bytes(), t, cells); err != nil {
			return fmt.Errorf("%s, row %d: %w", s.Population.Path, rows+1, err)
		}
		if err := fn(workpaper.RowID(t, cells), cells); err != nil {
			return fmt.Errorf("%s, row %d: %w", s.Population.Path, rows+1, err)
		}
		rows++
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", s.Population.Path, err)
	}
	if rows != s.Population.Rows || hex.EncodeToString(h.Sum(nil)) != s.Population.SHA256 {
		return fmt.Errorf("%w: %s is not the file in the manifest; verify the pack first", ErrSample, s.Population.Path)
	}
	return nil
}

// decodeRow reads a line of JSON lines into cells.
func decodeRow(line []byte, t *workpaper.Table, cells []string) error {
	var values map[string]any
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if err := d.Decode(&values); err != nil {
		return fmt.Errorf("it is not JSON: %w", err)
	}
	if len(values) != len(t.Columns) {
		return fmt.Errorf("it has %d cells; this program knows %s with %d", len(values), t.Name, len(t.Columns))
	}
	for i, c := range t.Columns {
		v, there := values[c.Name]
		if !there {
			return fmt.Errorf("it has no cell %s", c.Name)
		}
		cells[i] = ""
		if v != nil {
			cells[i] = fmt.Sprint(v)
		}
	}
	return nil
}

// Encode returns the bytes of the file.
func (s *Sample) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(s)
	return b.Bytes(), err
}

// Digest names what a sample asks for, whatever was found of its rows: the
// SHA-256 of its JSON, on one line and with an LF, without id, results and notes.
func (s *Sample) Digest() [sha256.Size]byte {
	bare := *s
	bare.ID = ""
	bare.Rows = slices.Clone(s.Rows)
	for i := range bare.Rows {
		bare.Rows[i].Result, bare.Rows[i].Note = "", ""
	}
	return sha256.Sum256(append(evidence.EncodeBody(&bare), '\n'))
}

// ParseSample parses a sample. That it is what its seed draws is for CheckSample.
func ParseSample(b []byte) (*Sample, error) {
	var s Sample
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSample, err)
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("%w: version %d, this program reads version 1", ErrSample, s.Version)
	}
	return &s, nil
}

// CheckSample draws the rows again, and compares. It returns the manifest of the
// pack, unverified.
func CheckSample(pack fs.FS, s *Sample) (*Manifest, error) {
	encoded, err := readSmall(pack, ManifestFile, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("reading the pack's manifest: %w", err)
	}
	if hexSum(encoded) != s.Pack.Manifest {
		return nil, fmt.Errorf("%w: it is of another pack, with the manifest %.80s", ErrSample, s.Pack.Manifest)
	}
	again, m, err := drawSample(pack, SampleParams{s.Population.Name, s.Seed, s.N, s.Strata, s.Judgmental, s.Recipient})
	if err != nil {
		return nil, err
	}
	switch {
	case again.Pack != s.Pack:
		return nil, fmt.Errorf("%w: what it says of its pack is not so", ErrSample)
	case again.Population != s.Population:
		return nil, fmt.Errorf("%w: its population is not the pack's", ErrSample)
	case again.Digest() != s.Digest() || again.ID != s.ID:
		return nil, fmt.Errorf("%w: its rows are not those that its seed draws and it picks", ErrSample)
	}
	return m, nil
}
