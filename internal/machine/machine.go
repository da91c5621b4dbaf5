// Package machine names the running kernel. What a kernel keeps, a lock or a pipe, is
// gone after a restart, while its numbers come again: only with the kernel's name do
// they mean what they meant.
package machine

import "sync"

// Boot returns the name of this boot of this machine's kernel, the same in all of its
// containers, or "" if the system does not tell.
var Boot = sync.OnceValue(boot)
