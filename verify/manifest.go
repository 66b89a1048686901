package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Names of the files of a pack.
const (
	ManifestFile  = "manifest.json"
	SignatureFile = "manifest.sig"
	ReadmeFile    = "README.html"
	PrintFile     = "README.pdf"
	SummaryFile   = "summary.xlsx"
	LogFolder     = "log"
	StampsFile    = LogFolder + "/" + ledger.StampsFile
	KeysFile      = "log/keys.jsonl"
	ContextFile   = "raw/context.blocks"
	EdgesFile     = "raw/edges.blocks"
	SeedsFile     = "seeds.jsonl"
	SealedFile    = "sealed.jsonl"
	TestsFile     = "tests.jsonl"
)

// A file of blocks ends after the block that takes it to one of these.
const (
	MaxFileBlocks = 1 << 16
	MaxFileBytes  = 64 << 20
)

// TablePath is the path of a population, without its extension.
func TablePath(name string) string { return "pop/" + name }

// ListingPath is the path of a listing, without its extension.
func ListingPath(name string) string { return "listings/" + name }

// TranscriptPath is the path of a transcript.
func TranscriptPath(name string) string { return "transcripts/" + name }

// ControlPath is the path of a table about controls, without its extension.
func ControlPath(name string) string { return "controls/" + name }

// BlocksPath is the path of the file of blocks first to last of the range.
func BlocksPath(first, last uint64) string { return fmt.Sprintf("raw/%d-%d.blocks", first, last) }

// Manifest is manifest.json: what a pack holds and what it was asked for.
type Manifest struct {
	Version      int       `json:"version"`
	Organisation string    `json:"organisation"`
	Origin       string    `json:"origin"`
	Gateway      string    `json:"gateway"`
	Generator    Generator `json:"generator"`
	Params       Params    `json:"params"`
	Range        Range     `json:"range"`
	Tree         Size      `json:"tree"`
	Files        []File    `json:"files"` // by path
}

// Generator is the program that made a pack.
type Generator struct {
	Version string `json:"version"`
	Binary  string `json:"binary,omitempty"` // sha256 of the executable, hex
}

// Params is what a pack was asked for.
type Params struct {
	From  string      `json:"from"` // ISO 8601 in UTC to the microsecond
	To    string      `json:"to"`
	Level string      `json:"level"`
	By    evidence.By `json:"by"`
}

// Range is what a pack covers.
type Range struct {
	FirstBlock uint64            `json:"first_block"`
	LastBlock  uint64            `json:"last_block"`
	First      evidence.Position `json:"first"`
	Last       evidence.Position `json:"last"`
	Records    uint64            `json:"records"`
}

// Size is the log's tree that a pack is proven against.
type Size struct {
	Size uint64 `json:"size"`
	Root []byte `json:"root"` // base64, as in a checkpoint
}

// File is a file of a pack.
type File struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`         // hex
	Rows   int64  `json:"rows,omitempty"` // of a table
}

// Encode returns the bytes of manifest.json.
func (m *Manifest) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(m)
	return b.Bytes(), err
}

// SignedText is the text of manifest.sig, before its signature. Its first line
// keeps it apart from a checkpoint.
func SignedText(origin string, manifest []byte) string {
	sum := sha256.Sum256(manifest)
	return "exhibit/pack/v1\n" + origin + "\n" + hex.EncodeToString(sum[:]) + "\n"
}

var errManifest = errors.New("not a manifest")

// parseManifest parses manifest.json. Encoding it again must give the same
// bytes: that refuses unknown and duplicate keys and every other spelling.
func parseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	if m.Version != 1 {
		return nil, fmt.Errorf("%w: version %d, this program reads version 1", errManifest, m.Version)
	}
	again, err := m.Encode()
	if err != nil || !bytes.Equal(again, b) {
		return nil, fmt.Errorf("%w: not in its one encoding", errManifest)
	}
	for i, f := range m.Files {
		switch {
		case !fs.ValidPath(f.Path) || f.Path == "." || f.Path == ManifestFile || f.Path == SignatureFile:
			return nil, fmt.Errorf("%w: a file cannot have the path %.120q", errManifest, f.Path)
		case i > 0 && m.Files[i-1].Path >= f.Path:
			return nil, fmt.Errorf("%w: files are not in order of their paths at %.120q", errManifest, f.Path)
		case f.Bytes < 0 || f.Rows < 0:
			return nil, fmt.Errorf("%w: %.120q has a negative size", errManifest, f.Path)
		}
	}
	switch {
	case m.Params.Level != Heads && m.Params.Level != Bodies && m.Params.Level != Full:
		return nil, fmt.Errorf("%w: level %.20q, this program reads packs of levels L0, L1 and L3", errManifest, m.Params.Level)
	case m.Range.FirstBlock > m.Range.LastBlock || m.Range.LastBlock >= m.Tree.Size:
		return nil, fmt.Errorf("%w: blocks %d to %d of %d", errManifest, m.Range.FirstBlock, m.Range.LastBlock, m.Tree.Size)
	}
	return &m, nil
}

// openSignature checks manifest.sig.
func openSignature(sig, manifest []byte, origin string, log []note.Verifier) error {
	n, err := note.Open(sig, note.VerifierList(log...))
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(n.Sigs, func(s note.Signature) bool { return s.Name == origin }) {
		return fmt.Errorf("it is not signed by a key of log %s", origin)
	}
	if n.Text != SignedText(origin, manifest) {
		return errors.New("it signs another manifest")
	}
	return nil
}

// Seed is a line of seeds.jsonl.
type Seed struct {
	Scope  string        `json:"scope"` // position of a session.start, or gateway.boot
	Seed   evidence.Hash `json:"seed,omitzero"`
	Erased bool          `json:"erased,omitempty"`
}

// Encode returns the line.
func (s *Seed) Encode() []byte { return append(evidence.EncodeBody(s), '\n') }

// ScopeOf names the key scope of a record.
func ScopeOf(h *evidence.Head) string {
	if !h.Session.IsZero() {
		return h.Session.String()
	}
	return BootScope(h.Pos)
}

// BootScope names the key scope of a boot's records outside sessions.
func BootScope(p evidence.Position) string { return fmt.Sprintf("%s.%d", p.Gateway, p.Boot) }
