package push

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// The addresses of the libraries' APIs.
const (
	VantaAPI       = "https://api.vanta.com"
	DrataAPI       = "https://public-api.drata.com/public/v2"
	SecureframeAPI = "https://api.secureframe.com"
)

// vanta attaches files to a document and submits it.
type vanta struct {
	*client
	document string
}

// Vanta returns the library of a document, which is a request for evidence such
// as "access-reviews".
func Vanta(a Account, document string) (Library, error) {
	if document == "" {
		return nil, errors.New("Vanta needs the id of a document")
	}
	c, err := newClient(a, "Bearer")
	return &vanta{c, document}, err
}

func (v *vanta) path(rest string) string { return "/v1/documents/" + url.PathEscape(v.document) + rest }

// Has implements Library.
func (v *vanta) Has(ctx context.Context, _ *Set) (map[string]bool, bool, error) {
	there := make(map[string]bool)
	cursor := ""
	for range maxPages {
		var page struct {
			Results struct {
				Data []struct {
					Name    string  `json:"fileName"`
					Deleted *string `json:"deletionDate"`
				}
				Page struct {
					More bool   `json:"hasNextPage"`
					End  string `json:"endCursor"`
				} `json:"pageInfo"`
			}
		}
		path := v.path("/uploads?pageSize=100")
		if cursor != "" {
			path += "&pageCursor=" + url.QueryEscape(cursor)
		}
		if err := v.send(ctx, request{method: http.MethodGet, path: path, safe: true}, &page); err != nil {
			return nil, false, err
		}
		for _, f := range page.Results.Data {
			there[f.Name] = there[f.Name] || f.Deleted == nil
		}
		if cursor = page.Results.Page.End; !page.Results.Page.More || cursor == "" {
			return there, true, nil
		}
	}
	return nil, false, errors.New("the document has more uploads than can be looked through")
}

// maxPages bounds how far a list is followed.
const maxPages = 1000

// Put implements Library.
func (v *vanta) Put(ctx context.Context, s *Set, f *File) (string, error) {
	kind, body, err := v.form(f, "description", s.About)
	if err != nil {
		return "", err
	}
	var out struct{ ID string }
	err = v.send(ctx, request{method: http.MethodPost, path: v.path("/uploads"), kind: kind, body: body}, &out)
	return out.ID, err
}

// Finish implements Library: it submits the document for review.
func (v *vanta) Finish(ctx context.Context, _ *Set, _ map[string]string) (string, error) {
	return v.document, v.send(ctx, request{method: http.MethodPost, path: v.path("/submit"), safe: true}, nil)
}

// drata uploads files, and then makes one item of evidence of them.
type drata struct {
	*client
	DrataItem
}

// DrataItem says where an item of evidence goes and whose it is.
type DrataItem struct {
	Workspace int64
	Owner     int64   // a user's id
	Controls  []int64 // that it is evidence for
}

// Drata returns the evidence library of a workspace.
func Drata(a Account, item DrataItem) (Library, error) {
	if item.Workspace <= 0 || item.Owner <= 0 {
		return nil, errors.New("Drata needs the number of a workspace and of the user who owns the evidence")
	}
	c, err := newClient(a, "Bearer")
	return &drata{c, item}, err
}

// drataTypes are the extensions that Drata's evidence library has always taken.
// It has come to take more.
var drataTypes = map[string]bool{
	".pdf": true, ".docx": true, ".odt": true, ".xlsx": true, ".ods": true, ".pptx": true, ".odp": true, ".gif": true, ".jpg": true, ".jpeg": true, ".png": true,
}

// drataName is the longest name that Drata takes.
const drataName = 191

func (d *drata) path(rest string) string { return fmt.Sprintf("/workspaces/%d%s", d.Workspace, rest) }

// Has implements Library: an item of evidence has all of its files or isn't
// there.
func (d *drata) Has(ctx context.Context, s *Set) (map[string]bool, bool, error) {
	id, err := d.item(ctx, s)
	if err != nil || id == "" {
		return nil, true, err
	}
	there := make(map[string]bool)
	for _, f := range s.Files {
		there[f.Name] = true
	}
	return there, true, nil
}

// item is the id of the item of a set, "" while there is none.
func (d *drata) item(ctx context.Context, s *Set) (string, error) {
	name := d.name(s)
	var page struct {
		Data []struct {
			ID   int64
			Name string
		}
	}
	err := d.send(ctx, request{method: http.MethodGet, path: d.path("/evidence?size=500&name=" + url.QueryEscape(name)), safe: true}, &page)
	for _, e := range page.Data {
		if e.Name == name {
			return fmt.Sprint(e.ID), nil
		}
	}
	return "", err
}

func (d *drata) name(s *Set) string { return s.Title[:min(len(s.Title), drataName)] }

// Put implements Library. What was uploaded is part of nothing yet, so that twice
// does no harm.
func (d *drata) Put(ctx context.Context, _ *Set, f *File) (string, error) {
	if !drataTypes[extension(f.Name)] || len(f.Name) > drataName {
		return "", fmt.Errorf("Drata takes no file named %s", f.Name)
	}
	kind, body, err := d.form(f)
	if err != nil {
		return "", err
	}
	var out struct {
		Key   string `json:"fileKey"`
		Bytes int64  `json:"fileSize"`
	}
	if err := d.send(ctx, request{method: http.MethodPost, path: d.path("/evidence-files"), kind: kind, body: body, safe: true}, &out); err != nil {
		return "", err
	}
	if out.Key == "" || out.Bytes != f.Bytes {
		return "", fmt.Errorf("the library has %d bytes of %d", out.Bytes, f.Bytes)
	}
	return out.Key, nil
}

// Finish implements Library.
func (d *drata) Finish(ctx context.Context, s *Set, keys map[string]string) (string, error) {
	if len(keys) == 0 {
		return d.item(ctx, s)
	}
	type artifact struct {
		Type  string `json:"artifactType"`
		Name  string `json:"artifactName"`
		Key   string `json:"fileKey"`
		Filed string `json:"filedAt"`
	}
	item := struct {
		Name      string     `json:"name"`
		About     string     `json:"description"`
		Owner     int64      `json:"ownerId"`
		Controls  []int64    `json:"controlIds,omitempty"`
		Renewal   string     `json:"renewalScheduleType"`
		Artifacts []artifact `json:"artifacts"`
	}{Name: d.name(s), About: s.About, Owner: d.Owner, Controls: d.Controls, Renewal: "NONE"}
	for _, f := range s.Files {
		item.Artifacts = append(item.Artifacts, artifact{"S3_FILE", f.Name, keys[f.Name], s.At.Format("2006-01-02")})
	}
	var out struct {
		ID      int64
		Created int `json:"artifactsCreated"`
	}
	err := d.send(ctx, request{method: http.MethodPost, path: d.path("/evidence"), kind: "application/json", body: asJSON(item)}, &out)
	if errors.Is(err, ErrUnclear) {
		if id, e := d.item(ctx, s); e == nil && id != "" {
			return id, nil
		}
	}
	if err != nil {
		return "", err
	}
	if out.Created != len(item.Artifacts) {
		return "", fmt.Errorf("evidence %d has %d of %d files: delete it there and push again", out.ID, out.Created, len(item.Artifacts))
	}
	return fmt.Sprint(out.ID), nil
}

// secureframe attaches files to a test.
type secureframe struct {
	*client
	test string
}

// Secureframe returns the evidence of a test. Its token is the API key and its
// secret, with a space between.
func Secureframe(a Account, test string) (Library, error) {
	if test == "" {
		return nil, errors.New("Secureframe needs the id of a test")
	}
	token := a.Token
	a.Token = func() (string, error) {
		t, err := token()
		if err == nil && len(strings.Fields(t)) != 2 {
			err = errors.New("the token of Secureframe is the API key and its secret, with a space between")
		}
		return t, err
	}
	c, err := newClient(a, "")
	return &secureframe{c, test}, err
}

// Has implements Library: the API has no list of what a test has.
func (*secureframe) Has(context.Context, *Set) (map[string]bool, bool, error) { return nil, false, nil }

// Put implements Library.
func (l *secureframe) Put(ctx context.Context, _ *Set, f *File) (string, error) {
	kind, body, err := l.form(f)
	if err != nil {
		return "", err
	}
	var out struct {
		Data struct{ ID string }
	}
	err = l.send(ctx, request{method: http.MethodPost, path: "/tests/" + url.PathEscape(l.test) + "/evidences", kind: kind, body: body}, &out)
	if errors.Is(err, ErrUnclear) {
		err = fmt.Errorf("%w; look whether the test has it before you push again: it would be there twice", err)
	}
	return out.Data.ID, err
}

// Finish implements Library: a file is evidence once it is there.
func (l *secureframe) Finish(context.Context, *Set, map[string]string) (string, error) {
	return l.test, nil
}
