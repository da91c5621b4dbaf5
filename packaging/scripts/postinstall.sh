#!/bin/sh
# After the files of the package are in place, for deb ("configure") and rpm (1 or 2).
set -e
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers rstream.conf
elif ! getent passwd rstream >/dev/null; then
	useradd --system --user-group --home-dir /var/lib/rstream --no-create-home --shell /usr/sbin/nologin rstream
fi
# The settings of the server are not those of the machine's users.
if [ "$(stat -c %G /etc/rstream/config.yaml)" = root ]; then
	chgrp rstream /etc/rstream/config.yaml
	chmod 640 /etc/rstream/config.yaml
fi
# The server is neither started nor restarted: many machines need only the client, and before
# an upgrade the log wants a backup.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
