package machine

import (
	"os"
	"strings"
)

func boot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // /proc is not mounted
	}
	return strings.TrimSpace(string(b))
}
