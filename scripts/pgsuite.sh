#!/usr/bin/env bash
# Prints the folder that holds PostgreSQL's own tests for a server's major
# version, which is filled first when it isn't there: the regression suite with
# its library (regress.so), isolationtester with its specs for concurrent
# sessions, and libpq_pipeline, a client for pipelines. They are PostgreSQL's, so
# they stay outside the repository, in
# ${XDG_CACHE_HOME:-~/.cache}/exhibit-tools, and come from Debian's or Ubuntu's
# source package (23 MB and an index of 10 MB, once).
set -euo pipefail

major=${1:-}
if ! [[ $major =~ ^[0-9]+$ ]]; then
	echo "usage: scripts/pgsuite.sh MAJOR" >&2
	exit 2
fi
suite=${EXHIBIT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/exhibit-tools}/postgresql-$major-tests
if [ -e "$suite/libpq_pipeline_16" ]; then
	printf '%s\n' "$suite"
	exit 0
fi
for program in apt-get dpkg-deb tar bzip2 "${CC:-gcc}"; do
	command -v "$program" >/dev/null || {
		echo "pgsuite: no $program here (hint: on Debian and Ubuntu scripts/setup.sh installs what is missing)" >&2
		exit 1
	}
done

mkdir -p "$(dirname "$suite")"
work=$(mktemp -d "$suite.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
echo "pgsuite: getting the tests of PostgreSQL $major" >&2

# Sources from where the server's package is from, and lists of our own: the
# machine's stay as they are.
mkdir -p apt/lists/partial apt/cache/archives/partial
apt-cache policy "postgresql-$major" |
	awk '$2 ~ /^https?:/ && $NF == "Packages" { split($3, s, "/"); print "deb-src", $2, s[1], s[2] }' |
	sort -u >apt/sources.list
apt() {
	local tool=$1
	shift
	"$tool" -qq -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User= "$@"
}
apt apt-get update >&2
# A mirror may know of a version that it doesn't have.
got=
for version in $(apt apt-cache showsrc "postgresql-$major" | sed -n 's/^Version: //p' | sort -rVu); do
	if apt apt-get source --download-only "postgresql-$major=$version" >>apt/said 2>&1; then
		got=$version
		break
	fi
done
if [ -z "$got" ]; then
	cat apt/said >&2
	echo "pgsuite: the source package of postgresql-$major can't be had" >&2
	exit 1
fi
mkdir source suite
tar -C source --strip-components=1 -xjf "postgresql-${major}"_*.orig.tar.bz2

# The headers and libraries, without the compilers that their package asks for.
root=
if [ ! -e "/usr/include/postgresql/$major/server/postgres.h" ] || [ ! -e /usr/include/postgresql/libpq-fe.h ]; then
	apt-get -qq -o APT::Sandbox::User= download "postgresql-server-dev-$major" libpq-dev >&2
	for package in *.deb; do dpkg-deb -x "$package" dev; done
	root=$work/dev
fi
include=$root/usr/include/postgresql
flags=(-O1 -w -I"$include/$major/server" -I"$include" -I"$include/internal")
libraries=("-L$root/usr/lib/postgresql/$major/lib" -l:libpq.so.5 -lpgcommon -lpgport -lm)
cp -r source/src/test/regress/{sql,expected,data,parallel_schedule} source/src/test/isolation/specs suite/
"${CC:-gcc}" "${flags[@]}" -shared -fPIC -o suite/regress.so source/src/test/regress/regress.c
"${CC:-gcc}" "${flags[@]}" -o suite/isolationtester source/src/test/isolation/{isolationtester,specparse}.c "${libraries[@]}"
# Since PostgreSQL 16 a setting that libpq_pipeline begins with has another name.
pipeline=source/src/test/modules/libpq_pipeline/libpq_pipeline.c
sed 's/force_parallel_mode/debug_parallel_query/' $pipeline >pipeline_16.c
"${CC:-gcc}" "${flags[@]}" -o suite/libpq_pipeline $pipeline "${libraries[@]}"
"${CC:-gcc}" "${flags[@]}" -o suite/libpq_pipeline_16 pipeline_16.c "${libraries[@]}"
rm -rf "$suite" # of before, without some of these
mv -T suite "$suite" 2>/dev/null || [ -e "$suite/libpq_pipeline_16" ] # another may have been faster
printf '%s\n' "$suite"
