package seal

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"k8s.io/klog/v2"
)

// merkleTree is the log's tree. It publishes a checkpoint of what was added by
// itself, within checkpointInterval.
type merkleTree interface {
	// Size returns the number of leaves.
	Size(context.Context) (uint64, error)
	// Add appends a leaf and returns its index once it is durably in the tree.
	// After an error it may or may not be: Size tells.
	Add(context.Context, []byte) (uint64, error)
	// FS holds tiles and checkpoint in C2SP tlog-tiles layout.
	FS() fs.FS
	Close() error
}

// checkpointInterval is the least that Tessera takes.
const checkpointInterval = 100 * time.Millisecond

// tesseraTree is a tree in a directory, kept by Tessera's POSIX driver.
type tesseraTree struct {
	dir      fs.FS
	appender *tessera.Appender
	reader   tessera.LogReader
	shutdown func(context.Context) error
	cancel   context.CancelFunc
}

// quiet routes Tessera's warnings, which are the process's klog, to ours. The
// rest of what it says isn't for operators.
var quiet sync.Once

func openTessera(ctx context.Context, dir string, signer note.Signer, logger *slog.Logger) (merkleTree, error) {
	quiet.Do(func() { klog.SetSlogLogger(slog.New(warnings{logger.Handler()})) })
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the log's directory: %w", err)
	}
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return nil, fmt.Errorf("opening the tree in %s: %w", dir, err)
	}
	opts := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(checkpointInterval).
		WithCheckpointRepublishInterval(0). // a checkpoint is new when the log is
		WithBatching(1, time.Millisecond).
		WithShutdownTimeout(publishWait)
	// The tree's workers must outlive ctx: an Add that they take up has to be
	// answered, or nobody would know whether the leaf is in.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	appender, shutdown, reader, err := tessera.NewAppender(background, driver, opts)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("opening the tree in %s: %w", dir, err)
	}
	return &tesseraTree{os.DirFS(dir), appender, reader, shutdown, cancel}, nil
}

func (t *tesseraTree) Size(ctx context.Context) (uint64, error) { return t.reader.IntegratedSize(ctx) }

func (t *tesseraTree) Add(ctx context.Context, leaf []byte) (uint64, error) {
	// The POSIX driver answers when the leaf is integrated. The wait is not cut
	// short when ctx is done, see above.
	i, err := t.appender.Add(context.WithoutCancel(ctx), tessera.NewEntry(leaf))()
	return i.Index, err
}

func (t *tesseraTree) FS() fs.FS { return t.dir }

// Close waits until a checkpoint covers every leaf that was added.
func (t *tesseraTree) Close() error {
	defer t.cancel()
	return t.shutdown(context.Background())
}

// warnings passes on warnings and errors only.
type warnings struct{ slog.Handler }

func (h warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && h.Handler.Enabled(ctx, l)
}

func (h warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnings{h.Handler.WithAttrs(attrs)}
}
func (h warnings) WithGroup(name string) slog.Handler { return warnings{h.Handler.WithGroup(name)} }
