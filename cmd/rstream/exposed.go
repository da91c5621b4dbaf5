package main

// warnIfExposed notes, once for each file, that other users can read a secret. It says nothing
// if this user cannot change that: where the file belongs to another user, or where its file
// system cannot be written, as containers get their secrets.
func (a *app) warnIfExposed(path string) {
	if _, known := a.exposed.LoadOrStore(path, true); known || !isExposed(path) {
		return
	}
	a.note("other users can read %s; run \"chmod 600 %s\"", visible(path), visible(shellWord(path)))
}
