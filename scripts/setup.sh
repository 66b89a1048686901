#!/usr/bin/env bash
# Installs what is needed besides Go, where it is missing. For "build" (and the
# demo) that is a C compiler, since PostgreSQL's grammar is C, PostgreSQL, and
# curl; for "test", the default, also npm, which fetches a newer PostgreSQL and
# the clients that tests drive, a web server, etcd for Kubernetes, openssl as a
# time stamp authority, what a witness of logs needs, and LibreOffice and
# poppler, which open what an auditor does; for "bench" the proxies beside which it
# measures, and what puts load on them.
# Prints nothing when all is there.
#
#     scripts/setup.sh [build|test|bench]
#
# Nothing here depends on a server that the packages start by themselves; on a
# machine with an init system you may want to stop those.
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

# Debian keeps the server's programs out of the PATH.
have_postgres() {
	local dir
	for dir in /usr/lib/postgresql/*/bin; do
		[ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && return 0
	done
	have initdb && have postgres
}

# A compiler without the C library's headers compiles nothing.
have_cc() {
	have "${CC:-gcc}" && printf '#include <stdio.h>\n' | "${CC:-gcc}" -E - >/dev/null 2>&1
}

what=${1:-test}
case $what in
build | test | bench) ;;
*)
	say "usage: scripts/setup.sh [build|test|bench]"
	exit 2
	;;
esac

missing=()
have make || missing+=(make)
have_cc || missing+=(gcc libc6-dev)
have_postgres || missing+=(postgresql)
have curl || missing+=(curl)
have psql && have pgbench || missing+=(postgresql-client postgresql-contrib)
if [ "$what" = test ]; then
	have bzip2 || missing+=(bzip2) # for the sources of PostgreSQL's own tests
	have npm || missing+=(npm)
	have nginx || missing+=(nginx-light)
	have etcd || missing+=(etcd-server)           # what Kubernetes keeps its objects in
	have sqlite3 || missing+=(sqlite3)            # to tell a witness which logs to follow
	have mkfs.ext4 || missing+=(e2fsprogs)        # a disk that fails
	have openssl || missing+=(openssl)            # a time stamp authority
	have ssh-agent || missing+=(openssh-client)   # which holds the witness's key
	have soffice || missing+=(libreoffice-calc)   # opens the workbook of a pack
	have pdftotext || missing+=(poppler-utils)    # reads its first page
elif [ "$what" = bench ]; then
	have pgbouncer || missing+=(pgbouncer)
	have haproxy || missing+=(haproxy)
	have nginx || missing+=(nginx-light)
	have wrk || missing+=(wrk)
	have h2load || missing+=(nghttp2-client)
fi

# The tests of PostgreSQL 18 say themselves that it's missing.
newer() {
	if [ "$what" = test ] && [ "$(uname -sm)" = "Linux x86_64" ] && [ -z "${EXHIBIT_PG18:-}" ]; then
		"$(dirname "$0")/tool.sh" postgres-18 >/dev/null || say "going on without PostgreSQL 18"
	fi
}

if [ ${#missing[@]} -eq 0 ]; then
	newer
	exit
fi

if ! have apt-get; then
	say "missing: ${missing[*]} (Debian's names)"
	say "hint: this machine has no apt-get; install them with its own package manager and run this again"
	exit 1
fi

root=()
if [ "$(id -u)" -ne 0 ]; then
	if have sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
		root=(sudo)
	else
		say "missing: ${missing[*]}"
		say "hint: run as root: apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
		exit 1
	fi
fi

say "installing ${missing[*]}"
apt() {
	"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" >&2
}
apt update -qq
if ! apt install -y -qq --no-install-recommends "${missing[@]}"; then
	say "apt-get could not install ${missing[*]}"
	say "hint: install them by hand and run this again"
	exit 1
fi
newer
