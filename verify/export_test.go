package verify

import "io/fs"

// PackWithoutMemo is Pack, making every decision again even when it was asked
// before.
func PackWithoutMemo(pack fs.FS, t Trust) (*Report, error) {
	return verifyPack(pack, t, false, nil, nil)
}

// ProgressLine is one line of progress.
var ProgressLine = progressLine
