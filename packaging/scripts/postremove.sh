#!/bin/sh
# After the files were removed. The log in /var/lib/rstream stays, since it may exist nowhere
# else, and its user with it.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
