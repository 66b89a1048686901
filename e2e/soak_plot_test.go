package e2e

import (
	"bytes"
	"encoding/csv"
	"flag"
	"fmt"
	"image/color"
	"os"
	"strconv"
	"testing"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

var update = flag.Bool("update", false, "draw docs/soak.svg anew from docs/soak.csv")

// curves are what the plot shows of a soak: columns of its samples, in units
// that people read.
var curves = []struct {
	title, column string
	unit          float64
	rate          bool // how much it grows in a second
}{
	{"commands a second", "commands", 1, true},
	{"heap in use, MiB", "heap_bytes", 1 << 20, false},
	{"resident memory, MiB", "resident_bytes", 1 << 20, false},
	{"resident memory of the grammar's process, MiB", "grammar_resident_bytes", 1 << 20, false},
	{"goroutines", "goroutines", 1, false},
	{"open files", "descriptors", 1, false},
	{"journal on disk, MiB", "journal_bytes", 1 << 20, false},
	{"archive on disk, MiB", "archive_bytes", 1 << 20, false},
	{"oldest record without a block, seconds", "unsealed_seconds", 1, false},
	{"sessions", "sessions", 1, false},
}

// TestTheSoaksPlotShowsItsSamples draws the plot of the documents from the
// samples beside it.
func TestTheSoaksPlotShowsItsSamples(t *testing.T) {
	const name = "../docs/soak"
	samples, err := os.ReadFile(name + ".csv")
	if err != nil {
		t.Fatal(err)
	}
	drawn, err := drawSoak(samples)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(name+".svg", drawn, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(name + ".svg")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(drawn, kept) {
		t.Errorf("%s.svg is not what its samples show.\nhint: go test ./e2e -run SoaksPlot -update", name)
	}
}

// drawSoak draws the samples of a soak, a curve in each tile.
func drawSoak(samples []byte) ([]byte, error) {
	table, err := csv.NewReader(bytes.NewReader(samples)).ReadAll()
	if err != nil {
		return nil, err
	}
	values := map[string][]float64{}
	for _, row := range table[1:] {
		for i, cell := range row {
			v, err := strconv.ParseFloat(cell, 64)
			if err != nil {
				return nil, err
			}
			values[table[0][i]] = append(values[table[0][i]], v)
		}
	}
	plot.DefaultFont.Variant = "Sans"
	const across = 2
	tiles := draw.Tiles{Rows: (len(curves) + across - 1) / across, Cols: across, PadX: 16, PadY: 16, PadTop: 4, PadBottom: 4, PadLeft: 4, PadRight: 8}
	plots := make([][]*plot.Plot, tiles.Rows)
	for i, c := range curves {
		points := make(plotter.XYs, 0, len(table))
		for j, v := range values[c.column] {
			at := values["seconds"][j]
			if c.rate {
				if j == 0 || at == values["seconds"][j-1] {
					continue
				}
				v = (v - values[c.column][j-1]) / (at - values["seconds"][j-1])
			}
			points = append(points, plotter.XY{X: at / 60, Y: v / c.unit})
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, fmt.Errorf("drawing %s: %w", c.column, err)
		}
		line.Color = color.RGBA{R: 0x1f, G: 0x5f, B: 0xa8, A: 0xff}
		p := plot.New()
		p.Title.Text, p.X.Label.Text = c.title, "minutes"
		p.Title.TextStyle.Font.Size, p.X.Label.TextStyle.Font.Size = 10, 8
		p.Add(plotter.NewGrid(), line)
		p.Y.Min = 0
		plots[i/across] = append(plots[i/across], p)
	}
	canvas := vgsvg.New(20*vg.Centimeter, vg.Length(tiles.Rows)*4.5*vg.Centimeter)
	for i, row := range plot.Align(plots, tiles, draw.New(canvas)) {
		for j, tile := range row {
			plots[i][j].Draw(tile)
		}
	}
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	// Arial has the same widths, where Liberation isn't installed.
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,sans-serif")), nil
}
