// A WebSocket server on the npm package ws. Its options come as JSON in the first argument. It writes
// its events to standard output, one JSON object per line, with `at` in milliseconds.
//
//   /feed?n=&rate=&size=&fragments=  n numbered JSON messages (0: without end), rate a second (0: as fast as they are
//                                    taken), padded to size characters, each in so many fragments
//   /echo                            sends everything back, text as text and binary as binary
//   /refuse/STATUS?times=&after=     answers so many handshakes of this path with STATUS (0: all), with Retry-After
//                                    where after is given; then it is a feed
'use strict';

const http = require('node:http');
const {setTimeout: sleep} = require('node:timers/promises');
const {WebSocketServer} = require('ws');

const {host, port, deflate = false, subprotocol = null} = JSON.parse(process.argv[2]);
const refused = new Map();
const record = (event) => process.stdout.write(JSON.stringify({at: Date.now(), ...event}) + '\n');

const sockets = new WebSocketServer({
  noServer: true,
  perMessageDeflate: deflate ? {threshold: 128} : false,
  handleProtocols: (offered) => (offered.has(subprotocol) ? subprotocol : false),
});

async function feed(socket, query) {
  const [n, rate, size, fragments] = ['n', 'rate', 'size', 'fragments'].map((key) => Number(query.get(key) ?? 0));
  for (let number = 1; (!n || number <= n) && socket.readyState === socket.OPEN; number++) {
    const text = JSON.stringify({n: number, pad: 'x'.repeat(Math.max(0, size - 20))});
    const part = Math.ceil(text.length / (fragments || 1));
    for (let at = 0; at < text.length; at += part) {
      socket.send(text.slice(at, at + part), {fin: at + part >= text.length});
    }
    if (rate) await sleep(1000 / rate);
    else if (number % 100 === 0 || socket.bufferedAmount > 65536) await sleep(0);
    while (socket.bufferedAmount > 1 << 20 && socket.readyState === socket.OPEN) await sleep(1);
  }
}

sockets.on('connection', (socket, request, url) => {
  record({event: 'open', path: url.pathname, protocol: socket.protocol, extensions: socket.extensions,
        headers: request.headers});
  socket.on('error', (error) => record({event: 'error', path: url.pathname, message: error.message}));
  socket.on('close', (code) => record({event: 'close', path: url.pathname, code}));
  if (url.pathname === '/echo') socket.on('message', (data, isBinary) => socket.send(data, {binary: isBinary}));
  else feed(socket, url.searchParams);
});

function refusal(url) {
  const [, kind, status] = url.pathname.split('/');
  if (kind !== 'refuse') return null;
  const times = Number(url.searchParams.get('times') ?? 0);
  const count = (refused.get(url.pathname) ?? 0) + 1;
  if (times && count > times) return null;
  refused.set(url.pathname, count);
  return {status: Number(status), after: url.searchParams.get('after')};
}

const server = http.createServer((request, response) => response.writeHead(426).end());
server.on('upgrade', (request, socket, head) => {
  const url = new URL(request.url, 'http://localhost');
  const no = refusal(url);
  if (no) {
    record({event: 'refuse', path: url.pathname, status: no.status});
    const after = no.after === null ? '' : `Retry-After: ${no.after}\r\n`;
    socket.end(`HTTP/1.1 ${no.status} ${http.STATUS_CODES[no.status]}\r\nConnection: close\r\nContent-Length: 0\r\n${after}\r\n`);
    return;
  }
  sockets.handleUpgrade(request, socket, head, (open) => sockets.emit('connection', open, request, url));
});
server.listen(port, host, () => record({event: 'ready'}));
