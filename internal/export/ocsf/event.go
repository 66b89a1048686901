package ocsf

// Version is that of the schema.
const Version = "1.8.0"

// The objects below are those of the schema, with the attributes that records
// have something to say to.

type event struct {
	ActivityID   int    `json:"activity_id"`
	ActivityName string `json:"activity_name"`
	CategoryUID  int    `json:"category_uid"`
	ClassUID     int    `json:"class_uid"`
	ClassName    string `json:"class_name"`
	TypeUID      int    `json:"type_uid"`
	SeverityID   int    `json:"severity_id"`
	StatusID     int    `json:"status_id"`
	StatusCode   string `json:"status_code,omitempty"`
	StatusDetail string `json:"status_detail,omitempty"`
	Time         int64  `json:"time"`
	Duration     *int64 `json:"duration,omitempty"`
	Message      string `json:"message,omitempty"`
	Comment      string `json:"comment,omitempty"`

	Metadata metadata `json:"metadata"`
	Actor    *actor   `json:"actor,omitempty"`

	// Of the profile security_control.
	ActionID       *int            `json:"action_id,omitempty"`
	DispositionID  *int            `json:"disposition_id,omitempty"`
	IsAlert        bool            `json:"is_alert,omitempty"`
	Authorizations []authorization `json:"authorizations,omitempty"`
	Policy         *policy         `json:"policy,omitempty"`

	// Of one class or the other.
	API         *api         `json:"api,omitempty"`
	App         *product     `json:"app,omitempty"`
	AuthProto   string       `json:"auth_protocol,omitempty"`
	AuthProtoID *int         `json:"auth_protocol_id,omitempty"`
	Database    *database    `json:"database,omitempty"`
	TypeID      *int         `json:"type_id,omitempty"`
	Device      *device      `json:"device,omitempty"`
	DstEndpoint *endpoint    `json:"dst_endpoint,omitempty"`
	Entity      *entity      `json:"entity,omitempty"`
	Finding     *findingInfo `json:"finding_info,omitempty"`
	Privileges  []string     `json:"privileges,omitempty"`
	Query       *queryInfo   `json:"query_info,omitempty"`
	Resources   []resource   `json:"resources,omitempty"`
	Service     *service     `json:"service,omitempty"`
	Session     *session     `json:"session,omitempty"`
	SrcEndpoint *endpoint    `json:"src_endpoint,omitempty"`
	User        *user        `json:"user,omitempty"`

	Unmapped    map[string]any `json:"unmapped,omitempty"`
	RawData     string         `json:"raw_data"`
	RawDataHash fingerprint    `json:"raw_data_hash"`
}

type metadata struct {
	Version     string   `json:"version"`
	Product     product  `json:"product"`
	Profiles    []string `json:"profiles,omitempty"`
	UID         string   `json:"uid"`
	Correlation string   `json:"correlation_uid"`
	EventCode   string   `json:"event_code"`
	LogName     string   `json:"log_name"`
	LogProvider string   `json:"log_provider"`
	Sequence    uint64   `json:"sequence"`
	Truncated   bool     `json:"is_truncated,omitempty"`
	Untruncated int      `json:"untruncated_size,omitempty"`
}

type product struct {
	Name    string `json:"name"`
	Vendor  string `json:"vendor_name"`
	Version string `json:"version,omitempty"`
	UID     string `json:"uid,omitempty"`
}

type actor struct {
	User    *user    `json:"user,omitempty"`
	Session *session `json:"session,omitempty"`
	AppName string   `json:"app_name,omitempty"`
	AppUID  string   `json:"app_uid,omitempty"`
}

type user struct {
	UID    string `json:"uid,omitempty"`
	Name   string `json:"name,omitempty"`
	Full   string `json:"full_name,omitempty"`
	Email  string `json:"email_addr,omitempty"`
	TypeID *int   `json:"type_id,omitempty"`
}

type session struct {
	UID        string `json:"uid"`
	Credential string `json:"credential_uid,omitempty"`
	Expiration string `json:"expiration_reason,omitempty"`
}

type endpoint struct {
	IP      string `json:"ip,omitempty"`
	Port    uint16 `json:"port,omitempty"`
	Host    string `json:"hostname,omitempty"`
	Name    string `json:"name,omitempty"`
	Service string `json:"svc_name,omitempty"`
}

type authorization struct {
	Decision string  `json:"decision"`
	Policy   *policy `json:"policy,omitempty"`
}

type policy struct {
	UID     string `json:"uid,omitempty"`
	Name    string `json:"name,omitempty"`
	Type    string `json:"type,omitempty"`
	Version string `json:"version,omitempty"`
	Applied bool   `json:"is_applied"`
}

type api struct {
	Operation string    `json:"operation"`
	Service   *service  `json:"service,omitempty"`
	Request   *request  `json:"request,omitempty"`
	Response  *response `json:"response,omitempty"`
}

type request struct {
	UID string `json:"uid"`
}

type response struct {
	Code  *int   `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
}

type service struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

type database struct {
	Name   string `json:"name"`
	UID    string `json:"uid"`
	TypeID int    `json:"type_id"`
}

type queryInfo struct {
	UID   string `json:"uid"`
	Text  string `json:"query_string"`
	Bytes uint64 `json:"bytes,omitempty"`
}

type entity struct {
	UID    string  `json:"uid,omitempty"`
	Name   string  `json:"name,omitempty"`
	Type   string  `json:"type"`
	TypeID int     `json:"type_id"`
	Policy *policy `json:"policy,omitempty"`
}

type resource struct {
	UID   string `json:"uid,omitempty"`
	Name  string `json:"name"`
	Type  string `json:"type,omitempty"`
	Owner *user  `json:"owner,omitempty"`
}

type device struct {
	Name   string `json:"name"`
	UID    string `json:"uid"`
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
}

type findingInfo struct {
	UID      string         `json:"uid"`
	Title    string         `json:"title"`
	Desc     string         `json:"desc,omitempty"`
	Created  int64          `json:"created_time,omitempty"`
	Analytic *analytic      `json:"analytic,omitempty"`
	Related  []relatedEvent `json:"related_events,omitempty"`
}

type analytic struct {
	Name   string `json:"name"`
	TypeID int    `json:"type_id"`
}

type relatedEvent struct {
	UID string `json:"uid"`
}

type fingerprint struct {
	Algorithm   string `json:"algorithm"`
	AlgorithmID int    `json:"algorithm_id"`
	Value       string `json:"value"`
}
