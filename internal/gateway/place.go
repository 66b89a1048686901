package gateway

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// placeFile holds its own inode number and the host that wrote it. A copy of
// the data folder, or one restored from a backup, has it in another inode.
const placeFile = "place"

// recognise raises an alert when the data folder isn't where the boot before
// left it. It lets the gateway run: to move house is no crime, and whether the
// other copy runs as well can't be seen from here.
func (g *Gateway) recognise(first bool) error {
	f, err := os.OpenFile(filepath.Join(g.opened.Data, placeFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("looking where the data folder is: %w", err)
	}
	inode, known, err := inodeOf(f)
	if err == nil && known {
		err = g.compare(f, inode, first)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("looking where the data folder is: %w", err)
	}
	return nil
}

func (g *Gateway) compare(f *os.File, inode uint64, first bool) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	was, from := uint64(0), "an unknown host"
	if _, err := fmt.Fscan(f, &was, &from); err == nil && was == inode {
		return nil
	}
	if !first {
		g.log.Warn("the data folder was copied, moved or restored since it was last served",
			"last", from, "hint", "if a gateway still runs on the other copy, or this one lacks its newest blocks, end this one now: two copies sign two histories (operator guide, Backups)")
		g.Alert("data-moved", "high", fmt.Sprintf("the data folder was copied, moved or restored since it was last served (by %.100s): make sure that no gateway runs on another copy", from))
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%d %s\n", inode, host), 0); err != nil {
		return err
	}
	return f.Sync()
}
