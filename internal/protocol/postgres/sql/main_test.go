package sql

import (
	"os"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == grammar.Argument {
		grammar.Main()
	}
	os.Exit(m.Run())
}
