package workpaper

import (
	"encoding/hex"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Texts returns the policy files and the configuration that a record brought
// in force, and what it imported, as files of a pack: policies/DIGEST/NAME,
// config/DIGEST.txt and imports/DIGEST.json.
// Digests and names that wouldn't do as file names are written in hex.
func Texts(r *evidence.Record) []evidence.File {
	switch r.Head.Type {
	case evidence.PolicyChange:
		var b evidence.PolicyBody
		if evidence.DecodeBody(r.Body, &b) != nil {
			return nil // record.body has the exception
		}
		files := make([]evidence.File, len(b.Files))
		for i, f := range b.Files {
			files[i] = evidence.File{Name: "policies/" + fileName(b.Digest) + "/" + fileName(f.Name), Text: f.Text}
		}
		return files
	case evidence.ConfigChange:
		var b evidence.ConfigBody
		if evidence.DecodeBody(r.Body, &b) != nil {
			return nil
		}
		return []evidence.File{{Name: "config/" + fileName(b.Digest) + ".txt", Text: b.Text}}
	case evidence.ImportSnapshot:
		var b evidence.ImportBody
		if evidence.DecodeBody(r.Body, &b) != nil || len(b.Data) == 0 {
			return nil
		}
		return []evidence.File{{Name: "imports/" + fileName(b.Digest) + ".json", Text: string(b.Data)}}
	}
	return nil
}

// fileName makes any text a file name on any system. What it must change gets
// a prefix that no plain name has.
func fileName(s string) string {
	const plainChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
	if s != "" && len(s) <= 120 && s[0] != '.' && s[0] != '-' && strings.Trim(s, plainChars) == "" {
		return s
	}
	return "-x" + hex.EncodeToString([]byte(s[:min(len(s), 100)]))
}
