package kubernetes

import (
	"bytes"
	"errors"
	"mime"
	"regexp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// MaxContent bounds what is read of a content, as API servers do.
const MaxContent = 3 << 20

// The types of content that API servers read.
const (
	mediaJSON     = "application/json"
	mediaYAML     = "application/yaml"
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
	mediaCBOR     = "application/cbor"
)

// patches are the types of patches, and how those that name an object are
// written; in the others a document is no object.
var patches = map[string]string{
	"application/json-patch+json":            "",
	"application/merge-patch+json":           mediaJSON,
	"application/strategic-merge-patch+json": mediaJSON,
	"application/apply-patch+yaml":           mediaYAML,
	"application/apply-patch+cbor":           mediaCBOR,
}

// mediaOf is a content's type without parameters; one that isn't read by API
// servers is "other". They take JSON where none is said.
func mediaOf(field string) string {
	if field == "" {
		return mediaJSON
	}
	t, _, err := mime.ParseMediaType(field)
	if _, patch := patches[t]; err != nil || !patch && !slices.Contains([]string{mediaJSON, mediaYAML, mediaProtobuf, mediaCBOR}, t) {
		return "other"
	}
	return t
}

// object is what a content says of itself.
type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name         string `json:"name"`
		GenerateName string `json:"generateName"`
		Namespace    string `json:"namespace"`
	} `json:"metadata"`
}

var errMedia = errors.New("content of a type that is not the API's")

// decode reads a content as the API server does, with its own libraries: with
// other ones policy could be made to see another object.
func decode(media string, content []byte, into any) error {
	switch media {
	case mediaYAML:
		plain, err := yaml.YAMLToJSON(content)
		if err != nil {
			return err
		}
		return json.Unmarshal(plain, into)
	case mediaJSON:
		return json.Unmarshal(content, into)
	case mediaCBOR:
		return direct.Unmarshal(content, into)
	}
	return errMedia
}

// magic begins the API's protobuf messages.
var magic = []byte("k8s\x00")

// unwrap takes the object out of the envelope of the API's protobuf messages.
func unwrap(content []byte) (u runtime.Unknown, err error) {
	rest, ok := bytes.CutPrefix(content, magic)
	if !ok {
		return u, errMedia
	}
	err = u.Unmarshal(rest)
	return u, err
}

// objectOf reads which object a content is.
func objectOf(media string, content []byte) (o object, err error) {
	if media != mediaProtobuf {
		err = decode(media, content, &o)
		return o, err
	}
	u, err := unwrap(content)
	if err != nil {
		return o, err
	}
	var m metav1.PartialObjectMetadata // whose metadata are where every object has them
	if err := m.Unmarshal(u.Raw); err != nil {
		return o, err
	}
	o.APIVersion, o.Kind = u.APIVersion, u.Kind
	o.Metadata.Name, o.Metadata.GenerateName, o.Metadata.Namespace = m.Name, m.GenerateName, m.Namespace
	return o, nil
}

// optionsOf reads how something is to be deleted.
func optionsOf(media string, content []byte) (o metav1.DeleteOptions, err error) {
	if media != mediaProtobuf {
		err = decode(media, content, &o)
		return o, err
	}
	u, err := unwrap(content)
	if err != nil {
		return o, err
	}
	return o, o.Unmarshal(u.Raw)
}

// kindName is what a kind is written in.
var kindName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{0,62}$`)

// about takes in what a content says of a request's object.
func (i *info) about(media string, content []byte) (kind string, generated bool) {
	written := media
	switch {
	case isRead(i.Verb) || verbs[i.Verb] == "":
		return "", false
	case i.Verb == "patch":
		var patch bool
		if written, patch = patches[media]; !patch {
			i.unclear = true
			return "", false
		}
		if written == "" {
			return "", false
		}
	}
	o, err := objectOf(written, content)
	if err != nil {
		i.unclear = true
		return "", false
	}
	i.unclear = i.unclear || o.Kind != "" && !kindName.MatchString(o.Kind)
	m := o.Metadata
	switch {
	case m.Namespace != "" && m.Namespace != i.Namespace && i.Resource != "namespaces",
		i.Name != "" && m.Name != "" && m.Name != i.Name:
		i.unclear = true // the server refuses it, or believes the content
	case i.Name == "" && m.Name != "":
		i.Name = m.Name
		i.unclear = i.unclear || !name.MatchString(m.Name)
	case i.Name == "" && m.GenerateName != "":
		generated = true
	}
	if !kindName.MatchString(o.Kind) {
		return "", generated
	}
	return o.Kind, generated
}

// deleting are the options of a deletion: a content's where there is one, and
// else the query's.
func (i *info) deleting(media string, content []byte) (propagation string, dry bool) {
	o := metav1.DeleteOptions{DryRun: i.query["dryRun"]}
	var orphan *bool
	if p := i.one("propagationPolicy"); p != "" {
		policy := metav1.DeletionPropagation(p)
		o.PropagationPolicy = &policy
	}
	if i.query.Has("orphanDependents") {
		v := i.flag("orphanDependents")
		orphan = &v
	}
	if len(content) > 0 {
		var err error
		if o, err = optionsOf(media, content); err != nil {
			i.unclear = true
			return "", false
		}
		orphan = o.OrphanDependents //nolint:staticcheck // old clients say it so
	}
	dry = tried(o.DryRun)
	switch {
	case o.PropagationPolicy != nil:
		propagation = string(*o.PropagationPolicy)
	case orphan != nil && *orphan:
		propagation = string(metav1.DeletePropagationOrphan)
	case orphan != nil:
		propagation = string(metav1.DeletePropagationBackground)
	}
	if propagation != "" && !kindName.MatchString(propagation) {
		i.unclear = true
		propagation = ""
	}
	return propagation, dry
}
