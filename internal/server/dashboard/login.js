'use strict'
const base = location.origin + location.pathname.replace(/\/dashboard$/, '')
const at = id => document.getElementById(id)

at('login').addEventListener('submit', async e => {
  e.preventDefault()
  at('problem').textContent = ''
  try {
    const body = new URLSearchParams({token: at('token').value.trim()})
    const answer = await fetch(base + '/login', {method: 'POST', body})
    if (!answer.headers.has('Rstream-Log')) throw 'Something else answers in place of the server, with status ' + answer.status + '.'
    const said = await answer.json()
    if (answer.ok && said.board === 'read') return location.reload()
    at('problem').textContent = answer.ok ? 'The token does not allow to see the board.' : said.detail
  } catch (e) {
    at('problem').textContent = typeof e === 'string' ? e : 'The server does not answer.'
  }
  at('token').select()
})

// A browser does not send the cookie if a link of another site leads here. A request of this
// page has it, and so has the page that it leads to, at another URL: to the same one, with a
// fragment, a browser loads nothing. The board takes both back.
if (!sessionStorage.getItem('again')) {
  fetch(location.href, {method: 'HEAD'}).then(answer => {
    if (!answer.ok) return
    sessionStorage.setItem('again', 'once')
    location.replace(base + '/dashboard' + (location.href.split('#')[0].endsWith('?') ? '' : '?') + location.hash)
  }).catch(() => {})
}
