package push

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/exhibit-gateway/exhibit/verify"
)

// pack is a stand-in with what a push reads.
func pack(t *testing.T, edit ...func(fstest.MapFS)) fs.FS {
	t.Helper()
	p := fstest.MapFS{
		verify.SummaryFile: {Data: bytes.Repeat([]byte("workbook "), 40_000)},
		verify.PrintFile:   {Data: []byte("%PDF-1.7 paper")},
	}
	m := verify.Manifest{Gateway: "gw1", Origin: "example.com/gw1", Params: verify.Params{From: "2026-01-01T00:00:00.000000Z", To: "2026-07-01T00:00:00.000000Z"}}
	for name, f := range p {
		sum := sha256.Sum256(f.Data)
		m.Files = append(m.Files, verify.File{Path: name, Bytes: int64(len(f.Data)), SHA256: hex.EncodeToString(sum[:])})
	}
	slices.SortFunc(m.Files, func(a, b verify.File) int { return strings.Compare(a.Path, b.Path) })
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	p[verify.ManifestFile] = &fstest.MapFile{Data: b}
	for _, e := range edit {
		e(p)
	}
	return p
}

// service is a library's API as its documents have it.
type service struct {
	*httptest.Server
	t      *testing.T
	mu     sync.Mutex
	token  string
	fail   func(r *http.Request, n int) (status int, header map[string]string, after bool) // 0 is nothing; after: it was carried out
	n      int
	files  map[string][]byte // by key or name
	names  []string
	items  []map[string]any
	submit int

	deleted map[string]any // dates by name
	broken  []string       // what a request did wrong
}

const secret = "k3y s3cret"

func newService(t *testing.T, scheme string, serve func(s *service, w http.ResponseWriter, r *http.Request)) *service {
	s := &service{t: t, token: strings.TrimSpace(scheme + " " + secret), files: make(map[string][]byte)}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.n++
		if r.Header.Get("Authorization") != s.token {
			answer(w, http.StatusUnauthorized, map[string]any{"message": "no such token: " + r.Header.Get("Authorization")})
			return
		}
		if s.fail != nil {
			status, header, after := s.fail(r, s.n)
			for k, v := range header {
				w.Header().Set(k, v)
			}
			if status != 0 {
				if after {
					serve(s, httptest.NewRecorder(), r)
				}
				answer(w, status, map[string]any{"message": "not now"})
				return
			}
		}
		serve(s, w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (s *service) bad(w http.ResponseWriter, format string, args ...any) {
	s.broken = append(s.broken, fmt.Sprintf(format, args...))
	answer(w, http.StatusBadRequest, map[string]any{"message": "malformed"})
}

// upload reads the form of an upload, and refuses what isn't one.
func (s *service) upload(w http.ResponseWriter, r *http.Request, fields ...string) (name string, data []byte, ok bool) {
	if err := r.ParseMultipartForm(1 << 20); err != nil || r.ContentLength <= 0 {
		s.bad(w, "not a multipart form of a known length: %v", err)
		return "", nil, false
	}
	f, h, err := r.FormFile("file")
	if err != nil || len(r.MultipartForm.File) != 1 {
		s.bad(w, "no file: %v", err)
		return "", nil, false
	}
	defer f.Close()
	data, err = io.ReadAll(f)
	want := map[bool]string{true: "application/pdf", false: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"}[strings.HasSuffix(h.Filename, ".pdf")]
	if err != nil || h.Header.Get("Content-Type") != want {
		s.bad(w, "%s is said to be %s: %v", h.Filename, h.Header.Get("Content-Type"), err)
		return "", nil, false
	}
	for name := range r.MultipartForm.Value {
		if !slices.Contains(fields, name) {
			s.bad(w, "there is no field %s", name)
			return "", nil, false
		}
	}
	return h.Filename, data, true
}

func (s *service) account() Account {
	return Account{
		Base: s.URL, Client: s.Client(), Token: func() (string, error) { return secret, nil },
		Pause: func(time.Duration) error { return nil },
	}
}

func vantaService(t *testing.T) *service {
	return newService(t, "Bearer", func(s *service, w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET /v1/documents/access-reviews/uploads":
			// One a page, so that pages are followed.
			i := 0
			_, _ = fmt.Sscan(r.URL.Query().Get("pageCursor"), &i)
			data, more := []any{}, i+1 < len(s.names)
			if i < len(s.names) {
				data = append(data, map[string]any{"id": "u", "fileName": s.names[i], "deletionDate": s.deleted[s.names[i]]})
			}
			answer(w, 200, map[string]any{"results": map[string]any{"data": data, "pageInfo": map[string]any{"hasNextPage": more, "endCursor": fmt.Sprint(i + 1)}}})
		case "POST /v1/documents/access-reviews/uploads":
			if name, data, ok := s.upload(w, r, "description", "effectiveAtDate"); ok {
				s.names, s.files[name] = append(s.names, name), data
				answer(w, 201, map[string]any{"id": "up" + fmt.Sprint(len(s.names)), "fileName": name})
			}
		case "POST /v1/documents/access-reviews/submit":
			s.submit++
			w.WriteHeader(http.StatusNoContent)
		default:
			answer(w, 404, map[string]any{"message": "no such document"})
		}
	})
}

func drataService(t *testing.T) *service {
	return newService(t, "Bearer", func(s *service, w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET /workspaces/7/evidence":
			data := []any{}
			for i, e := range s.items {
				if strings.HasPrefix(e["name"].(string), r.URL.Query().Get("name")) {
					data = append(data, map[string]any{"id": i + 1, "name": e["name"]})
				}
			}
			answer(w, 200, map[string]any{"data": data, "pagination": map[string]any{"cursor": nil}})
		case "POST /workspaces/7/evidence-files":
			if name, data, ok := s.upload(w, r); ok {
				key := fmt.Sprintf("7/evidence-library/%d/%s", len(s.files), name)
				s.files[key] = data
				answer(w, 201, map[string]any{"fileKey": key, "originalFilename": name, "mimeType": "x", "fileSize": len(data)})
			}
		case "POST /workspaces/7/evidence":
			var item map[string]any
			d := json.NewDecoder(r.Body)
			if err := d.Decode(&item); err != nil || len(item["name"].(string)) > 191 || item["ownerId"] != 3.0 || item["renewalScheduleType"] != "NONE" {
				s.bad(w, "not an item: %v", item)
				return
			}
			list := item["artifacts"].([]any)
			for _, a := range list {
				a := a.(map[string]any)
				if key, _ := a["fileKey"].(string); a["artifactType"] != "S3_FILE" || s.files[key] == nil || a["filedAt"] != "2026-07-01" {
					s.bad(w, "not an artifact: %v", a)
					return
				}
			}
			s.items = append(s.items, item)
			answer(w, 201, map[string]any{"id": len(s.items), "artifactsRequested": len(list), "artifactsCreated": len(list)})
		default:
			answer(w, 404, map[string]any{"message": "no such workspace"})
		}
	})
}

func secureframeService(t *testing.T) *service {
	return newService(t, "", func(s *service, w http.ResponseWriter, r *http.Request) {
		if r.Method+" "+r.URL.Path != "POST /tests/0b7d/evidences" {
			answer(w, 404, map[string]any{"error": "no such test"})
			return
		}
		if name, data, ok := s.upload(w, r); ok {
			s.names, s.files[name] = append(s.names, name), data
			answer(w, 201, map[string]any{"data": map[string]any{"id": "e" + fmt.Sprint(len(s.names))}})
		}
	})
}

// libraries are all of them, with their services.
var libraries = map[string]struct {
	service func(*testing.T) *service
	library func(Account) (Library, error)
	known   bool // it can be asked what it has
}{
	"vanta":       {vantaService, func(a Account) (Library, error) { return Vanta(a, "access-reviews") }, true},
	"drata":       {drataService, func(a Account) (Library, error) { return Drata(a, DrataItem{Workspace: 7, Owner: 3}) }, true},
	"secureframe": {secureframeService, func(a Account) (Library, error) { return Secureframe(a, "0b7d") }, false},
}

// whole checks that a library has each file of a set once, to the byte.
func (s *service) whole(t *testing.T, set *Set) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.broken) > 0 {
		t.Errorf("requests that the API doesn't take: %v", s.broken)
	}
	for _, f := range set.Files {
		n := 0
		for key, data := range s.files {
			sum := sha256.Sum256(data)
			if strings.HasSuffix(key, f.Name) && hex.EncodeToString(sum[:]) == f.SHA256 {
				n++
			}
		}
		if n == 0 {
			t.Errorf("%s is not there, or not whole", f.Name)
		}
	}
	if len(s.names) > len(set.Files) || len(s.items) > 1 {
		t.Errorf("something is there twice: %v, %d items", s.names, len(s.items))
	}
}

// Promise: each library gets the workbook and the paper in the shape that its API
// asks for, and a second push changes nothing where it can be seen.
func TestEachLibraryGetsTheFiles(t *testing.T) {
	for name, l := range libraries {
		t.Run(name, func(t *testing.T) {
			s := l.service(t)
			set, err := Of(pack(t))
			if err != nil || len(set.Files) != 2 {
				t.Fatalf("%+v, %v", set, err)
			}
			a := s.account()
			var sent int64
			a.Progress = func(done, total int64) {
				if sent = done; done > total {
					t.Errorf("%d of %d", done, total)
				}
			}
			lib, err := l.library(a)
			if err != nil {
				t.Fatal(err)
			}
			list, evidence, err := Push(t.Context(), lib, set)
			if err != nil || len(list) != 2 || evidence == "" || list[0].ID == "" || list[0].Had || sent == 0 {
				t.Fatalf("%+v, %q, %v", list, evidence, err)
			}
			s.whole(t, set)
			if name == "vanta" && s.submit != 1 {
				t.Errorf("submitted %d times", s.submit)
			}
			if !l.known {
				return
			}
			list, again, err := Push(t.Context(), lib, set)
			if err != nil || !list[0].Had || !list[1].Had || again != evidence {
				t.Errorf("again: %+v, %q, %v", list, again, err)
			}
			s.whole(t, set)
		})
	}
}

// What somebody has deleted in Vanta is listed still, and goes there again.
func TestADeletedUploadIsNotThere(t *testing.T) {
	s := vantaService(t)
	set, err := Of(pack(t))
	if err != nil {
		t.Fatal(err)
	}
	s.names, s.deleted = []string{set.Files[0].Name}, map[string]any{set.Files[0].Name: "2026-07-02T00:00:00.000Z"}
	lib, err := Vanta(s.account(), "access-reviews")
	if err != nil {
		t.Fatal(err)
	}
	if list, _, err := Push(t.Context(), lib, set); err != nil || list[0].Had || s.files[set.Files[0].Name] == nil {
		t.Errorf("%+v, %v", list, err)
	}
}

// Promise: a library that wants to be left alone for a while is asked again after
// it, and one that takes a file and can't say so doesn't get it twice.
func TestFailuresAreOutlasted(t *testing.T) {
	for name, l := range libraries {
		for what, fail := range map[string]func(r *http.Request, n int) (int, map[string]string, bool){
			"busy": func(_ *http.Request, n int) (int, map[string]string, bool) {
				if n%2 == 1 {
					return http.StatusTooManyRequests, map[string]string{"Retry-After": "7"}, false
				}
				return 0, nil, false
			},
			"away for a moment": func(_ *http.Request, n int) (int, map[string]string, bool) {
				if n < 4 {
					return http.StatusServiceUnavailable, nil, false
				}
				return 0, nil, false
			},
			"took it silently": func() func(r *http.Request, n int) (int, map[string]string, bool) {
				seen := make(map[string]bool)
				return func(r *http.Request, _ int) (int, map[string]string, bool) {
					if r.Method == http.MethodGet || seen[r.URL.Path] {
						return 0, nil, false
					}
					seen[r.URL.Path] = true
					return http.StatusBadGateway, nil, true
				}
			}(),
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				s := l.service(t)
				s.fail = fail
				set, err := Of(pack(t))
				if err != nil {
					t.Fatal(err)
				}
				a := s.account()
				var waited []time.Duration
				a.Pause = func(d time.Duration) error { waited = append(waited, d); return nil }
				lib, err := l.library(a)
				if err != nil {
					t.Fatal(err)
				}
				_, _, err = Push(t.Context(), lib, set)
				if what == "took it silently" && !l.known {
					if !errors.Is(err, ErrUnclear) || !strings.Contains(err.Error(), "look whether") {
						t.Fatalf("who can't be asked: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				s.whole(t, set)
				if what == "busy" && (len(waited) == 0 || slices.ContainsFunc(waited, func(d time.Duration) bool { return d < 7*time.Second })) {
					t.Errorf("it was asked again after %v", waited)
				}
			})
		}
	}
}

// Promise: what a library refuses is told with what to do, and the token is in no
// error.
func TestRefusalsSayWhatToDo(t *testing.T) {
	set, err := Of(pack(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, l := range libraries {
		for _, c := range []struct {
			what string
			edit func(*service, *Account)
			want string
		}{
			{"another token", func(s *service, _ *Account) { s.token = "x" }, "401"},
			{"no permission", func(s *service, _ *Account) {
				s.fail = func(*http.Request, int) (int, map[string]string, bool) { return 403, nil, false }
			}, "403"},
			{"too large", func(s *service, _ *Account) {
				s.fail = func(r *http.Request, _ int) (int, map[string]string, bool) {
					if r.Method == http.MethodPost {
						return 413, nil, false
					}
					return 0, nil, false
				}
			}, "413"},
			{"busy for good", func(s *service, _ *Account) {
				s.fail = func(*http.Request, int) (int, map[string]string, bool) { return 429, nil, false }
			}, "429"},
			{"busy for an hour", func(s *service, _ *Account) {
				s.fail = func(*http.Request, int) (int, map[string]string, bool) {
					return 429, map[string]string{"Retry-After": "3600"}, false
				}
			}, "1h0m0s"},
			{"elsewhere", func(s *service, _ *Account) {
				s.fail = func(*http.Request, int) (int, map[string]string, bool) {
					return 307, map[string]string{"Location": "https://evil.example/"}, false
				}
			}, "307"},
			{"not there", func(s *service, a *Account) { s.Close() }, "refused"},
			{"no token", func(_ *service, a *Account) {
				a.Token = func() (string, error) { return "", errors.New("the environment has no variable X") }
			}, "no variable X"},
		} {
			t.Run(name+" "+c.what, func(t *testing.T) {
				s := l.service(t)
				a := s.account()
				c.edit(s, &a)
				lib, err := l.library(a)
				if err != nil {
					t.Fatal(err)
				}
				_, _, err = Push(t.Context(), lib, set)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("%v, want %s", err, c.want)
				}
				if text := fmt.Sprintf("%v %+v", err, err); strings.Contains(text, "k3y") || strings.Contains(text, "s3cret") || strings.Contains(text, "evil") {
					t.Errorf("a secret, or where it was to go, is in %q", text)
				}
				var refused *Refusal
				if errors.As(err, &refused) && hints[refused.Status] != refused.Hint {
					t.Errorf("%+v", refused)
				}
			})
		}
	}
}

// Promise: only what the manifest names leaves, and nothing that is too large.
func TestOnlyThePacksFilesLeave(t *testing.T) {
	for what, edit := range map[string]func(fstest.MapFS){
		"another workbook":    func(p fstest.MapFS) { p[verify.SummaryFile] = &fstest.MapFile{Data: []byte("other")} },
		"no workbook":         func(p fstest.MapFS) { delete(p, verify.SummaryFile) },
		"no manifest":         func(p fstest.MapFS) { delete(p, verify.ManifestFile) },
		"a manifest of words": func(p fstest.MapFS) { p[verify.ManifestFile] = &fstest.MapFile{Data: []byte("{}")} },
		"too large": func(p fstest.MapFS) {
			p[verify.SummaryFile] = &fstest.MapFile{Data: make([]byte, MaxBytes+1)}
		},
	} {
		if set, err := Of(pack(t, edit)); err == nil {
			t.Errorf("%s: %+v is taken", what, set)
		}
	}
	set, err := Of(pack(t, func(p fstest.MapFS) {
		var m verify.Manifest
		if err := json.Unmarshal(p[verify.ManifestFile].Data, &m); err != nil {
			t.Fatal(err)
		}
		m.Files = slices.DeleteFunc(m.Files, func(f verify.File) bool { return f.Path == verify.PrintFile })
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		p[verify.ManifestFile] = &fstest.MapFile{Data: b}
	}))
	if err != nil || len(set.Files) != 1 {
		t.Errorf("a pack without paper: %+v, %v", set, err)
	}
}

// A token goes over TLS or to this machine, and a push can be given up.
func TestWhereATokenGoes(t *testing.T) {
	for _, base := range []string{"http://api.example.com", "https://user@api.example.com", "ftp://x", "nothing", ""} {
		if _, err := Vanta(Account{Base: base}, "d"); err == nil {
			t.Errorf("%q is taken", base)
		}
	}
	s := vantaService(t)
	set, err := Of(pack(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lib, err := Vanta(s.account(), "access-reviews")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Push(ctx, lib, set); !errors.Is(err, context.Canceled) || len(s.files) > 0 {
		t.Errorf("given up: %v", err)
	}
	for _, l := range []func() (Library, error){
		func() (Library, error) { return Vanta(s.account(), "") },
		func() (Library, error) { return Drata(s.account(), DrataItem{Workspace: 7}) },
		func() (Library, error) { return Secureframe(s.account(), "") },
	} {
		if _, err := l(); err == nil {
			t.Error("a library without a place is taken")
		}
	}
}
