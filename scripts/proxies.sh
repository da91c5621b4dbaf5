#!/usr/bin/env bash
# What nginx and Caddy do to streams, with their defaults and as docs/proxies.md says, as
# "rstream doctor" sees it. It listens on the loopback interface only, on the ports from
# PORT on, writes to a temporary directory, and ends what it started.
#
# It needs Go and curl, and nginx or caddy or both; NGINX and CADDY name the programs. With
# --install it gets what is missing, nginx as a package of Debian (as root) and Caddy as a
# Go program.
set -euo pipefail
cd "$(dirname "$0")/.."

port=${PORT:-18420}
nginx=${NGINX:-nginx}
caddy=${CADDY:-caddy}
dir=$(mktemp -d)
chmod 755 "$dir" # nginx's workers may be of another user
jobs=()
if [ "${1:-}" = --install ]; then
	command -v "$nginx" >/dev/null || { apt-get update -q && apt-get install -y -q nginx; }
	if ! command -v "$caddy" >/dev/null; then
		GOBIN=$dir go install github.com/caddyserver/caddy/v2/cmd/caddy@v2.10.2
		caddy=$dir/caddy
	fi
fi
finish() {
	for job in "${jobs[@]}"; do kill "$job" 2>/dev/null || true; done
	wait
	rm -rf "$dir"
}
trap finish EXIT

go build -o "$dir/rstream" ./cmd/rstream
page=http://stream.example.com
"$dir/rstream" serve --listen "127.0.0.1:$port" --db "$dir/log.db" --heartbeat 2s \
	--allow-origin "$page" --url-file "$dir/url" 2>"$dir/serve.err" &
jobs+=($!)
until [ -s "$dir/url" ]; do sleep 0.1; done
for i in 1 2 3 4 5 6 7 8; do "$dir/rstream" put -q -s "$(cat "$dir/url")" alice/posts "{\"n\":$i}"; done
# More than nginx takes without being told.
head -c 700000 /dev/zero | tr '\0' x >"$dir/text"
for i in 1 2 3; do printf '{"user":"bob","path":"big/%d","value":"%s"}\n' "$i" "$(cat "$dir/text")"; done >"$dir/batch"

failed=0
judge() { # judge WHAT WANTED GOT
	local verdict=as
	[ "$2" = "$3" ] || { verdict='NOT AS' failed=1; }
	printf '%-58s %-4s %s expected\n' "$1" "$3" "$verdict"
}
# doctor WHAT STATUS PORT FLAG...: what the doctor must end with, and its complaints.
doctor() {
	local what=$1 want=$2 at=$3 got=0
	shift 3
	"$dir/rstream" doctor "http://127.0.0.1:$at" --for 6s -o text -q "$@" >"$dir/said" 2>&1 || got=$?
	judge "$what" "$want" "$got"
	sed 's/^/    /' "$dir/said"
}
# batch WHAT STATUS PORT: how a batch of 2 MB is answered.
batch() {
	judge "$1" "$2" "$(curl -s -o "$dir/answer" -w '%{http_code}' --data-binary "@$dir/batch" "http://127.0.0.1:$3/set")"
}
listening() { until curl -s -o "$dir/answer" "http://127.0.0.1:$1/healthz"; do sleep 0.1; done; }

doctor 'no proxy' 0 "$port" --strict

if command -v "$nginx" >/dev/null; then
	ignore='proxy_ignore_headers X-Accel-Buffering;'
	snippet='proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; client_max_body_size 64m;'
	server() { echo "server { listen 127.0.0.1:$1; location / { proxy_pass http://127.0.0.1:$port; $2 } }"; }
	mkdir "$dir/nginx"
	{
		echo "daemon off; pid $dir/nginx/pid; error_log $dir/nginx/log; events {}"
		echo 'http { access_log off;'
		for kind in client_body proxy fastcgi uwsgi scgi; do echo "${kind}_temp_path $dir/nginx/$kind;"; done
		server $((port + 1)) ''
		server $((port + 2)) "$ignore"
		server $((port + 3)) "$ignore proxy_buffering off;"
		server $((port + 4)) "$snippet proxy_read_timeout 1s;"
		server $((port + 5)) "$snippet"
		echo '}'
	} >"$dir/nginx/conf"
	"$nginx" -p "$dir/nginx" -e "$dir/nginx/log" -c "$dir/nginx/conf" &
	jobs+=($!)
	listening $((port + 1))
	doctor 'nginx, defaults' 0 $((port + 1)) --strict
	batch 'nginx, defaults, a batch of 2 MB' 413 $((port + 1))
	doctor 'nginx, X-Accel-Buffering ignored' 1 $((port + 2))
	doctor 'nginx, X-Accel-Buffering ignored, proxy_buffering off' 0 $((port + 3)) --strict
	doctor 'nginx, proxy_read_timeout shorter than the heartbeat' 1 $((port + 4)) --strict
	doctor 'nginx, as docs/proxies.md says' 0 $((port + 5)) --strict
	doctor 'nginx, as docs/proxies.md says, another name' 0 $((port + 5)) --strict --header 'Host: stream.example.com'
	doctor 'nginx, as docs/proxies.md says, from a page' 0 $((port + 5)) --strict --header 'Host: stream.example.com' --header "Origin: $page"
	batch 'nginx, as docs/proxies.md says, a batch of 2 MB' 200 $((port + 5))
else
	echo "no $nginx here: left out"
fi

if command -v "$caddy" >/dev/null; then
	cat >"$dir/Caddyfile" <<-END
		{
			admin off
			auto_https off
		}
		http://:$((port + 6)) {
			bind 127.0.0.1
			reverse_proxy 127.0.0.1:$port
		}
		http://:$((port + 7)) {
			bind 127.0.0.1
			encode zstd gzip
			reverse_proxy 127.0.0.1:$port {
				header_up Host {upstream_hostport}
			}
		}
	END
	XDG_DATA_HOME=$dir XDG_CONFIG_HOME=$dir "$caddy" run --adapter caddyfile --config "$dir/Caddyfile" 2>"$dir/caddy.err" &
	jobs+=($!)
	listening $((port + 6))
	doctor 'Caddy, defaults' 0 $((port + 6)) --strict
	doctor 'Caddy, defaults, another name' 4 $((port + 6)) --header 'Host: stream.example.com'
	doctor 'Caddy, as docs/proxies.md says, another name' 0 $((port + 7)) --strict --header 'Host: stream.example.com'
	doctor 'Caddy, as docs/proxies.md says, from a page' 0 $((port + 7)) --strict --header 'Host: stream.example.com' --header "Origin: $page"
	batch 'Caddy, as docs/proxies.md says, a batch of 2 MB' 200 $((port + 7))
else
	echo "no $caddy here: left out"
fi
exit $failed
