package grammar

import (
	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// forEachField calls fn for the messages directly within m, in the order of
// its fields.
func forEachField(m proto.Message, fn func(protoreflect.FieldDescriptor, proto.Message)) {
	r := m.ProtoReflect()
	if !r.IsValid() {
		return
	}
	if n, ok := m.(*pg.Node); ok { // one of a few hundred fields: don't try them all
		if oneof := r.Descriptor().Oneofs().Get(0); r.WhichOneof(oneof) != nil {
			fn(r.WhichOneof(oneof), unwrap(n))
		}
		return
	}
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Message() == nil || !r.Has(fd) {
			continue
		}
		if !fd.IsList() {
			fn(fd, r.Get(fd).Message().Interface())
			continue
		}
		list := r.Get(fd).List()
		for j := range list.Len() {
			fn(fd, list.Get(j).Message().Interface())
		}
	}
}

func forEachChild(m proto.Message, fn func(proto.Message)) {
	forEachField(m, func(_ protoreflect.FieldDescriptor, c proto.Message) { fn(c) })
}

func clearValues(r protoreflect.Message) {
	if _, ok := r.Interface().(*pg.A_Const); ok {
		proto.Reset(r.Interface())
		return
	}
	if fd := r.Descriptor().Fields().ByName("location"); fd != nil {
		r.Clear(fd)
	}
	forEachChild(r.Interface(), func(c proto.Message) { clearValues(c.ProtoReflect()) })
}
