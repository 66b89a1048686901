package verify

import (
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Sampled is a sample that an auditor brings beside the pack.
type Sampled struct {
	Sample *Sample
}

// sampling takes the samples to check.
func (v *verifier) sampling(samples []*Sampled) {
	v.samples = samples
	v.drawn = Check{Kind: Sampling, Test: workpaper.Test{
		ID: "sample.drawn", Of: "sampled rows", Title: "The rows of every sample are those that its seed draws and the auditor picked",
	}}
}

// sampleChecks are the checks of samples; without samples there are none.
func (v *verifier) sampleChecks() []*Check {
	if len(v.samples) == 0 {
		return nil
	}
	return []*Check{&v.drawn}
}

// concludeSamples draws every sample again.
func (v *verifier) concludeSamples() {
	v.drawn.made = true
	for _, s := range v.samples {
		v.drawn.Population += uint64(len(s.Sample.Rows))
		if err := CheckSample(v.files.fs, s.Sample); err != nil {
			v.drawn.except("%.120s: %.300s", s.Sample.ID, err)
		}
	}
}
