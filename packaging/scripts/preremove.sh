#!/bin/sh
# Before the files are removed: "remove" in deb, 0 in rpm. An upgrade keeps the server.
set -e
case $1 in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now rstream.service
	fi
	;;
esac
