// A whole client of /bloom that knows nothing but filters of kind 4. It reads the
// events that it has as lines from standard input, fetches what it lacks of a topic,
// and writes all of them:  node client.mjs http://localhost:8420 alice/posts < mine
import { createHash, randomBytes } from 'node:crypto';
import { text } from 'node:stream/consumers';

const M = 2n ** 64n - 1n, rotl = (x, n) => (x << n | x >> (64n - n)) & M;

function siphash(salt, data) { // SipHash-2-4
  const k0 = salt.readBigUInt64LE(0), k1 = salt.readBigUInt64LE(8);
  let a = k0 ^ 0x736f6d6570736575n, b = k1 ^ 0x646f72616e646f6dn, c = k0 ^ 0x6c7967656e657261n, d = k1 ^ 0x7465646279746573n;
  const rounds = n => {
    while (n--) {
      a = a + b & M; b = rotl(b, 13n) ^ a; a = rotl(a, 32n); c = c + d & M; d = rotl(d, 16n) ^ c;
      a = a + d & M; d = rotl(d, 21n) ^ a; c = c + b & M; b = rotl(b, 17n) ^ c; c = rotl(c, 32n);
    }
  };
  const word = m => { d ^= m; rounds(2); a ^= m; };
  for (let i = 0; i < data.length; i += 8) word(data.readBigUInt64LE(i));
  word(BigInt(data.length) << 56n); // 32 bytes: nothing is left over
  c ^= 0xffn; rounds(4);
  return a ^ b ^ c ^ d;
}

function murmur(data) { // MurmurHash3_x64_128 of fewer than 16 bytes
  const fmix = k => {
    k = (k ^ k >> 33n) * 0xff51afd7ed558ccdn & M;
    k = (k ^ k >> 33n) * 0xc4ceb9fe1a85ec53n & M;
    return k ^ k >> 33n;
  };
  const b = Buffer.concat([data], 16), c1 = 0x87c37b91114253d5n, c2 = 0x4cf5ad432745937fn, len = BigInt(data.length);
  let h1 = rotl(b.readBigUInt64LE(0) * c1 & M, 31n) * c2 & M, h2 = rotl(b.readBigUInt64LE(8) * c2 & M, 33n) * c1 & M;
  h1 ^= len; h2 ^= len; h1 = h1 + h2 & M; h2 = h2 + h1 & M;
  h1 = fmix(h1); h2 = fmix(h2); h1 = h1 + h2 & M;
  return [h1, h2 + h1 & M];
}

function bits(salt, hash, m, k) { // the bits of an event in a filter
  const x = Buffer.alloc(9, 1);
  x.writeBigUInt64BE(siphash(salt, Buffer.from(hash, 'hex')));
  const h = [...murmur(x.subarray(0, 8)), ...murmur(x)];
  return Array.from({ length: k }, (_, i) => (h[i % 2] + BigInt(i) * h[2 + ((i + i % 2) % 4 >> 1)] & M) % m);
}

function uvarint(n) {
  const b = [];
  for (; n > 127; n = Math.floor(n / 128)) b.push(n % 128 + 128);
  return Buffer.from([...b, n]);
}

function filterOf(hashes, k = 4) { // one in 16 of what is not in it seems to be
  const salt = randomBytes(16), m = Math.ceil(Math.max(hashes.length, 64) * k / Math.LN2);
  const words = new BigUint64Array(Math.ceil(m / 64));
  for (const hash of hashes) for (const j of bits(salt, hash, BigInt(m), k)) words[Number(j >> 6n)] |= 1n << (j & 63n);
  const u64 = n => { const b = Buffer.alloc(8); b.writeBigUInt64BE(BigInt(n)); return b; };
  const body = Buffer.concat([salt, uvarint(hashes.length), u64(m), u64(k), u64(m), ...Array.from(words, u64)]);
  return Buffer.concat([Buffer.from([0xf5, 0x72, 1, 4]), uvarint(body.length), body]).toString('base64url');
}

function extra(frame, hashes) { // what of hashes is not in a filter
  let b = Buffer.from(frame, 'base64url').subarray(4);
  const skip = () => { let i = 0; while (b[i] > 127) i++; b = b.subarray(i + 1); };
  skip();
  const salt = b.subarray(0, 16);
  b = b.subarray(16);
  skip();
  const m = b.readBigUInt64BE(0), k = Number(b.readBigUInt64BE(8)), words = b.subarray(24);
  return hashes.filter(h => bits(salt, h, m, k).some(j => !(words.readBigUInt64BE(Number(j >> 6n) * 8) >> (j & 63n) & 1n)));
}

async function post(path, body) {
  const resp = await fetch(server + path, { method: 'POST', body: JSON.stringify(body) });
  if (!resp.ok) throw new Error(`${path}: ${await resp.text()}`);
  return [await resp.json(), resp.headers.get('Rstream-To')];
}

const digestOf = hashes => createHash('sha256').update(Buffer.from(hashes.toSorted().join(''), 'hex')).digest('hex');

const [server, topic] = process.argv.slice(2);
const mine = new Map((await text(process.stdin)).split('\n').filter(Boolean).map(line => [JSON.parse(line).hash, line]));
const unknown = new Set();
for (let round = 1, until = 'now'; ; round++) {
  const held = [...mine.keys()].filter(h => !unknown.has(h));
  const item = { topic, bloomFilter: filterOf(held), count: held.length, back: true };
  const [{ items: [answer] }, to] = await post(`/bloom?until=${until}`, { items: [item] });
  until = to; // what happens meanwhile is not looked at
  if (answer.digest === digestOf(held)) {
    for (const line of [...mine.values()].sort()) console.log(line);
    console.error(JSON.stringify({ round, count: answer.count, unknown: [...unknown] }));
    break;
  }
  if (round === 20) throw new Error('the digests do not come to agree');
  for (const h of extra(answer.bloomFilter, held)) unknown.add(h);
  const [{ events }] = await post('/get', { hashes: answer.missing.slice(0, 10000) });
  for (const event of events) mine.set(event.hash, JSON.stringify(event));
}
