package verify

import (
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Sampled is a sample that an auditor brings beside the pack, with what a
// gateway opened for it, if it did.
type Sampled struct {
	Sample *Sample
	Answer *Answer
}

// sampling takes the samples to check.
func (v *verifier) sampling(samples []*Sampled) {
	check := func(id, of, title string) Check {
		return Check{Kind: Sampling, Test: workpaper.Test{ID: id, Of: of, Title: title}}
	}
	v.samples = samples
	v.drawn = check("sample.drawn", "sampled rows", "The rows of every sample are those that its seed draws and the auditor picked")
	v.sealedParts = check("sample.sealed", "records of sampled rows", "What was opened is what the records' heads commit to, of the sampled rows and no others")
	v.ordered = check("sample.order", "answers", "The log held the pack's digests before the gateway saw the sample, and says who got what")
}

// sampleChecks are the checks of samples; without samples there are none.
func (v *verifier) sampleChecks() []*Check {
	if len(v.samples) == 0 {
		return nil
	}
	return []*Check{&v.drawn, &v.sealedParts, &v.ordered}
}

// concludeSamples draws every sample again, and checks what was opened for it.
func (v *verifier) concludeSamples() {
	if len(v.samples) == 0 {
		return
	}
	answers := 0
	v.drawn.made, v.sealedParts.made, v.ordered.made = true, true, true
	for _, s := range v.samples {
		v.drawn.Population += uint64(len(s.Sample.Rows))
		if _, err := CheckSample(v.files.fs, s.Sample); err != nil {
			v.drawn.except("%.120s: %.300s", s.Sample.ID, err)
		}
		if s.Answer != nil {
			answers++
			v.answer(s)
		}
	}
	if answers == 0 {
		v.sealedParts.State, v.sealedParts.Note = workpaper.NotTested, "No answer to a sample was given"
		v.ordered.State, v.ordered.Note = workpaper.NotTested, "No answer to a sample was given: that the seed came after the pack is the auditor's to know"
	}
}
