#!/usr/bin/env bash
# What nginx and Caddy do to streams, with their defaults and as docs/proxies.md says, as
# "rstream doctor" sees it. It listens on the loopback interface only, on the ports from
# PORT on, writes to a temporary directory, and ends what it started.
#
# It also kills the server three times under browsers' EventSources, which must still have
# every event: that of the npm package eventsource, and Chromium's.
#
# It needs Go, curl and jq, and nginx or caddy or both; for the kills, node with npm, and
# chromium; NGINX, CADDY and CHROMIUM name the programs. With --install it gets what is
# missing, Caddy as a Go program, the others as packages of Debian (as root).
set -euo pipefail
cd "$(dirname "$0")/.."

port=${PORT:-18420}
nginx=${NGINX:-nginx}
caddy=${CADDY:-caddy}
chromium=${CHROMIUM:-chromium}
dir=$(mktemp -d)
chmod 755 "$dir" # nginx's workers may be of another user
jobs=()
if [ "${1:-}" = --install ]; then
	need=()
	command -v "$nginx" >/dev/null || need+=(nginx)
	command -v "$chromium" >/dev/null || need+=(chromium)
	command -v jq >/dev/null || need+=(jq)
	[ ${#need[@]} = 0 ] || { apt-get update -q && apt-get install -y -q "${need[@]}"; }
	if ! command -v "$caddy" >/dev/null; then
		GOBIN=$dir go install github.com/caddyserver/caddy/v2/cmd/caddy@v2.10.2
		caddy=$dir/caddy
	fi
fi
finish() {
	for job in "${jobs[@]}"; do kill "$job" 2>/dev/null || true; done
	wait
	cd /
	rm -rf "$dir" || { sleep 1; rm -rf "$dir"; } # a browser may still write
}
trap finish EXIT

go build -o "$dir/rstream" ./cmd/rstream
page=http://stream.example.com
serve() {
	"$dir/rstream" serve --listen "127.0.0.1:$port" --db "$dir/log.db" --heartbeat 2s --allow-origin "$page" \
		--allow-origin "http://127.0.0.1:$((port + 5))" --allow-origin "http://127.0.0.1:$((port + 7))" \
		--url-file "$dir/url" 2>>"$dir/serve.err" &
	server=$!
	jobs+=("$server")
}
serve
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

# What a page does: it notes the id of each event, and at the end says which it has seen.
mkdir "$dir/page"
cat >"$dir/page/page.html" <<-'END'
	<!doctype html><script>
	const seen = [], asked = new URLSearchParams(location.search)
	const stream = new EventSource('/events?topic=' + asked.get('topic'))
	stream.addEventListener('PUT', e => {
		const ev = JSON.parse(e.data)
		if (ev.value !== 'end') return seen.push(ev.id)
		stream.close()
		fetch('/set/seen/' + asked.get('topic'), {method: 'POST', body: JSON.stringify({value: seen})})
	})
	</script>
END
cat >"$dir/page/read.mjs" <<-'END'
	import { EventSource } from 'eventsource'
	const stream = new EventSource(process.argv[2])
	const finish = () => { stream.close(); process.exit() }
	stream.addEventListener('PUT', e => {
		const ev = JSON.parse(e.data)
		if (ev.value === 'end') finish()
		console.log(ev.id)
	})
	stream.addEventListener('error', () => { if (stream.readyState === EventSource.CLOSED) finish() })
END
browsers=false
if command -v node >/dev/null && command -v npm >/dev/null && command -v "$chromium" >/dev/null; then
	(cd "$dir/page" && npm init -y && npm install eventsource@4) >"$dir/npm" 2>&1
	browsers=true
fi

# kills WHAT PORT: the server is killed three times under the EventSources of Chromium and
# of npm, while 200 events are appended. Both must have each of them once and in order.
kills() {
	local base=http://127.0.0.1:$2 topic=kills/$1 end
	$browsers || { echo "no node with npm, or no $chromium here: $1 without kills"; return; }
	node "$dir/page/read.mjs" "$base/events?topic=$topic" >"$dir/node.seen" &
	local reader=$!
	jobs+=("$reader")
	"$chromium" --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
		--disable-component-update --disable-sync --remote-debugging-port=0 --user-data-dir="$dir/chromium-$1" \
		"$base/page.html?topic=$topic" >"$dir/chromium.err" 2>&1 &
	jobs+=($!)
	for i in $(seq 200); do echo "$i"; sleep 0.05; done | "$dir/rstream" put -q -s "http://127.0.0.1:$port" "$topic" --lines &
	local putter=$!
	for i in 1 2 3; do
		sleep 2
		{ kill -9 "$server" && wait "$server"; } 2>/dev/null || true
		sleep 1.5
		serve
	done
	wait "$putter"
	"$dir/rstream" put -q -s "http://127.0.0.1:$port" "$topic" --text end
	curl -sH 'Accept: application/x-ndjson' "http://127.0.0.1:$port/events?topic=$topic" | jq -r 'select(.value != "end").id' >"$dir/want"
	for i in $(seq 300); do
		kill -0 "$reader" 2>/dev/null || break
		sleep 0.1
	done
	for i in $(seq 300); do
		curl -sH 'Accept: application/x-ndjson' "http://127.0.0.1:$port/events?topic=seen/$topic" >"$dir/page.seen"
		[ -s "$dir/page.seen" ] && break
		sleep 0.1
	done
	jq -r '.value[]' "$dir/page.seen" >"$dir/chromium.seen"
	judge "$1, three kills, events in the log" 200 "$(wc -l <"$dir/want")"
	for who in node chromium; do
		cmp -s "$dir/want" "$dir/$who.seen" && end=same || end="$(wc -l <"$dir/$who.seen")"
		judge "$1, three kills, what $who has seen" same "$end"
	done
}

doctor 'no proxy' 0 "$port" --strict

if command -v "$nginx" >/dev/null; then
	ignore='proxy_ignore_headers X-Accel-Buffering;'
	snippet='proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; client_max_body_size 64m;'
	away='if ($rstream_away = 502) { return 502; } default_type text/event-stream; add_header Cache-Control no-store; return 200 "retry: 1000\n\n";'
	whole="location = /events { proxy_pass http://127.0.0.1:$port; error_page 502 504 = @rstream_away; }
		location @rstream_away { $away }
		location = /page.html { root $dir/page; default_type text/html; }"
	server() { echo "server { listen 127.0.0.1:$1; ${3-} location / { proxy_pass http://127.0.0.1:$port; $2 } }"; }
	mkdir "$dir/nginx"
	{
		echo "daemon off; pid $dir/nginx/pid; error_log $dir/nginx/log; events {}"
		echo 'http { access_log off; map "$request_method $http_accept" $rstream_away { default 502; "~^GET .*text/event-stream" 200; }'
		for kind in client_body proxy fastcgi uwsgi scgi; do echo "${kind}_temp_path $dir/nginx/$kind;"; done
		server $((port + 1)) ''
		server $((port + 2)) "$ignore"
		server $((port + 3)) "$ignore proxy_buffering off;"
		server $((port + 4)) "$snippet proxy_read_timeout 1s;"
		server $((port + 5)) '' "$snippet $whole"
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
	kills nginx $((port + 5))
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
			handle /page.html {
				root * $dir/page
				file_server
			}
			reverse_proxy 127.0.0.1:$port {
				header_up Host {upstream_hostport}
				lb_try_duration 30s
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
	kills Caddy $((port + 7))
else
	echo "no $caddy here: left out"
fi
exit $failed
