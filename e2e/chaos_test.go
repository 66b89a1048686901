package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestHostileFramesHarmNobody sends well-formed and malformed frames in no
// sensible order, whole and cut, and hangs up anywhere. Whatever comes of it,
// the gateway serves others, every session ends, and the evidence is sound.
func TestHostileFramesHarmNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.connect()
	token := w.token("bot", "--ticket", "T-1")
	length := 6 * time.Second
	if testing.Short() {
		length = 2 * time.Second
	}
	var agents sync.WaitGroup
	for seed := range uint64(3) {
		agents.Go(func() {
			r := rand.New(rand.NewPCG(seed, 7))
			for end := time.Now().Add(length); time.Now().Before(end); {
				if c := login(t, w.listen, token); c != nil {
					hostile(r, c)
					continue
				}
				time.Sleep(100 * time.Millisecond) // too many sessions that are about to end
			}
		})
	}
	agents.Wait()
	if _, err := other.Exec(t.Context(), "select 1"); err != nil {
		t.Errorf("another agent's session: %v", err)
	}
	w.ok(other.Close(t.Context()))
	w.until(60*time.Second, "every session has ended", func() bool {
		return !strings.Contains(w.must("sessions"), "bot")
	})
	for _, d := range w.did("--agent", "bot") {
		if d.Outcome == "" || d.Outcome == "open" {
			t.Errorf("a command has no outcome: %+v", d)
		}
	}
	w.passes()
}

// TestATextThatKillsTheParserIsAnAlert sends a text that the grammar doesn't
// survive. It is refused as opaque, nobody else notices, and the pack has an
// alert that names the command and quotes nothing.
func TestATextThatKillsTheParserIsAnAlert(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.connect()
	c := w.connect()
	_, err := c.Exec(t.Context(), "select 'hunter2'"+strings.Repeat("+1", 100_000), pgx.QueryExecModeSimpleProtocol)
	if err == nil || !strings.Contains(err.Error(), "42501") {
		t.Errorf("the text: %v", err)
	}
	for _, c := range []*pgx.Conn{c, other} {
		if _, err := c.Exec(t.Context(), "select 1"); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		w.ok(c.Close(t.Context()))
	}
	w.passes()
	var id string
	for _, d := range w.did("--agent", "bot") {
		if d.Verb == "opaque" {
			id = d.ID
		}
	}
	alerts := w.table("alerts")
	if id == "" || len(alerts) != 1 || alerts[0]["rule"] != "grammar-killed" || alerts[0]["trigger"] != id || strings.Contains(fmt.Sprint(alerts), "hunter2") {
		t.Errorf("the command is %q, the alerts are %v", id, alerts)
	}
}

func frame(kind byte, body string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
	return append(b, body...)
}

// login logs in as bot by hand. It returns nil when the gateway refuses.
func login(t *testing.T, address, token string) net.Conn {
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Error(err)
		return nil
	}
	body := "\x00\x03\x00\x00user\x00bot\x00database\x00orders\x00\x00"
	startup := append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)
	_, err1 := c.Write(startup)
	_, err2 := io.ReadFull(c, make([]byte, 9))
	_, err3 := c.Write(frame('p', token+"\x00"))
	err = errors.Join(err1, err2, err3)
	buf, seen := make([]byte, 4096), ""
	for err == nil && !strings.Contains(seen, "Z\x00\x00\x00\x05") {
		var n int
		n, err = c.Read(buf)
		seen += string(buf[:n])
	}
	if err != nil {
		if !strings.Contains(seen, "C53300\x00") {
			t.Errorf("logging in: %v, after %q", err, seen)
		}
		_ = c.Close()
		return nil
	}
	return c
}

// hostile sends some bursts and hangs up. What the gateway answers, and that it
// may end the connection, is not looked at.
func hostile(r *rand.Rand, c net.Conn) {
	defer c.Close()
	for range 1 + r.IntN(30) {
		var burst []byte
		for range 1 + r.IntN(8) {
			burst = append(burst, hostileFrame(r)...)
		}
		if cut := len(burst) / 2; r.IntN(5) == 0 {
			if _, err := c.Write(burst[:cut]); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
			burst = burst[cut:]
		}
		if _, err := c.Write(burst); err != nil {
			return
		}
		if r.IntN(3) == 0 {
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = c.Read(make([]byte, 65536))
		}
	}
	if r.IntN(3) == 0 {
		_, _ = c.Write(frame('X', ""))
	}
}

func hostileFrame(r *rand.Rand) []byte {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	text := pick("select 1", "drop table t", "begin", "commit", "copy t to stdout", "copy t from stdin", "", ";", "select 1; select 2", "\xff\xfe", "select $1", "nonsense")
	name, portal := pick("", "a", "b"), pick("", "p")
	switch r.IntN(14) {
	case 0:
		return frame('Q', text+"\x00")
	case 1:
		return frame('P', name+"\x00"+text+"\x00\x00\x00")
	case 2:
		return frame('B', portal+"\x00"+name+"\x00\x00\x00\x00\x00\x00\x00")
	case 3:
		return frame('E', portal+"\x00\x00\x00\x00"+pick("\x00", "\x01"))
	case 4, 5, 6:
		return frame('S', "")
	case 7:
		return frame('D', pick("S", "P")+name+"\x00")
	case 8:
		return frame('C', pick("S", "P")+name+"\x00")
	case 9:
		return frame('H', "")
	case 10:
		return frame('d', "3001\tx\n")
	case 11:
		return frame(pick("c")[0], "")
	case 12:
		return frame('f', "x\x00")
	}
	if r.IntN(10) > 0 {
		return nil
	}
	junk := make([]byte, r.IntN(30))
	for i := range junk {
		junk[i] = byte(r.IntN(256))
	}
	return frame(byte(r.IntN(256)), string(junk))
}
