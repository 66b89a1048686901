package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Known returns the id under which the gateway has a person, of an id or an
// e-mail address elsewhere.
type Known func(id string) (string, bool)

// Names of the columns of a CSV file, as params may change them.
const (
	columnID     = "id"
	columnStatus = "status"
	columnLeft   = "left_at"
)

// stillHere and gone are what systems call people.
var (
	stillHere = []string{"active", "employed", "true", "yes", "1", "leave of absence", "on leave"}
	gone      = []string{"left", "inactive", "terminated", "deactivated", "suspended", "disabled", "deprovisioned", "false", "no", "0"}
)

// People reads everyone whom the personnel or identity system knows. Of people
// whom the gateway doesn't know nothing is kept but their number. Now is the
// time by which somebody with a date has left.
func People(in Input, known Known, now int64) (evidence.ImportBody, error) {
	var people []evidence.PersonRow
	var read int
	var err error
	switch in.Format {
	case CSV:
		people, read, err = peopleCSV(in, known, now)
	case SCIM:
		people, read, err = peopleSCIM(in, known)
	default:
		err = fmt.Errorf("%w: people come as %s or %s, not as %q", ErrInput, CSV, SCIM, in.Format)
	}
	if err != nil {
		return evidence.ImportBody{}, err
	}
	if read == 0 {
		return evidence.ImportBody{}, fmt.Errorf("%w: it has nobody in it", ErrInput)
	}
	slices.SortFunc(people, func(a, b evidence.PersonRow) int { return cmp.Compare(a.ID, b.ID) })
	return body(evidence.ImportPeople, in, read, people)
}

func peopleCSV(in Input, known Known, now int64) (people []evidence.PersonRow, read int, err error) {
	t, err := newTable(in.Data)
	if err != nil {
		return nil, 0, err
	}
	name := func(param string) string { return cmp.Or(in.Params[param], param) }
	id, err := t.column(name(columnID))
	if err != nil {
		return nil, 0, err
	}
	left, err := t.column(name(columnLeft))
	if err != nil {
		return nil, 0, err
	}
	status := slices.Index(t.columns, strings.ToLower(name(columnStatus))) // a date alone says it too
	if _, asked := in.Params[columnStatus]; asked && status < 0 {
		_, err := t.column(name(columnStatus))
		return nil, 0, err
	}
	seen := make(map[string]bool)
	for {
		if err := t.next(); errors.Is(err, io.EOF) {
			return people, t.rows, nil
		} else if err != nil {
			return nil, 0, err
		}
		p := evidence.PersonRow{Status: evidence.PersonActive}
		if p.ID, err = t.text(id); err != nil {
			return nil, 0, err
		}
		if p.Left, err = t.time(left); err != nil {
			return nil, 0, err
		}
		if p.Left != 0 && p.Left <= now {
			p.Status = evidence.PersonLeft
		}
		if status >= 0 {
			switch said := strings.ToLower(strings.TrimSpace(t.row[status])); {
			case slices.Contains(gone, said):
				p.Status = evidence.PersonLeft
			case !slices.Contains(stillHere, said):
				return nil, 0, t.fail(status, "status %.80q: want one of %s, or of %s", said, strings.Join(stillHere, ", "), strings.Join(gone, ", "))
			}
		}
		if p.ID == "" {
			return nil, 0, t.fail(id, "a person without an id")
		}
		if !keep(&people, seen, p, known) {
			return nil, 0, t.fail(id, "%.200q is there twice", p.ID)
		}
	}
}

// keep adds a person whom the gateway knows; false is one who is there already.
func keep(people *[]evidence.PersonRow, seen map[string]bool, p evidence.PersonRow, known Known) bool {
	own, ok := known(p.ID)
	if ok {
		p.ID = own
	}
	key := strings.ToLower(p.ID)
	if seen[key] {
		return false
	}
	seen[key] = true
	if p.Status == evidence.PersonActive {
		p.Left = 0 // a day to come is nobody's business yet
	}
	if ok {
		*people = append(*people, p)
	}
	return true
}

// scimUser is what is read of a User (RFC 7643 section 4.1).
type scimUser struct {
	UserName   string `json:"userName"`
	ExternalID string `json:"externalId"`
	Active     *bool  `json:"active"`
	Emails     []struct {
		Value   string `json:"value"`
		Primary bool   `json:"primary"`
	} `json:"emails"`
}

// names are under what a user may be known here.
func (u *scimUser) names() []string {
	names := []string{u.UserName, u.ExternalID}
	for _, e := range u.Emails {
		names = append(names, e.Value)
	}
	return slices.DeleteFunc(names, func(n string) bool { return n == "" })
}

func peopleSCIM(in Input, known Known) (people []evidence.PersonRow, read int, err error) {
	var list struct {
		Schemas []string
		Total   *int            `json:"totalResults"`
		Users   items[scimUser] `json:"Resources"`
	}
	if err := decode(in.Data, &list); err != nil {
		return nil, 0, err
	}
	switch {
	case !slices.Contains(list.Schemas, "urn:ietf:params:scim:api:messages:2.0:ListResponse"):
		return nil, 0, at(1, 1, "it is no SCIM 2.0 ListResponse: schemas doesn't say so")
	case list.Total == nil || *list.Total != len(list.Users):
		return nil, 0, at(1, 1, "it has %d of the users, and totalResults says how many there are: export all pages as one list", len(list.Users))
	case len(list.Users) > maxRows:
		return nil, 0, fmt.Errorf("%w: more than %d users", ErrInput, maxRows)
	}
	if err := list.Users.check(in.Data); err != nil {
		return nil, 0, err
	}
	seen := make(map[string]bool)
	for u, wrong := range list.Users.in(in.Data) {
		names := u.names()
		if len(names) == 0 {
			return nil, 0, wrong("a user without a name")
		}
		p := evidence.PersonRow{ID: names[0], Status: evidence.PersonActive}
		if u.Active != nil && !*u.Active { // it is optional, and then true
			p.Status = evidence.PersonLeft
		}
		for _, n := range names {
			if bad := plain(n); bad != "" {
				return nil, 0, wrong("%s", bad)
			}
			if _, ok := known(n); ok {
				p.ID = n
				break
			}
		}
		if !keep(&people, seen, p, known) {
			return nil, 0, wrong("%.200q is there twice", p.ID)
		}
	}
	return people, len(list.Users), nil
}
