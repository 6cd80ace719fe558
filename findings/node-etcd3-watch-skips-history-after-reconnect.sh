#!/bin/bash
# A watch of the Node.js client etcd3 that starts at an old revision loses the rest of the history when its connection is cut.
# After each answer it resumes after the revision in the answer's header. That is the store's current revision, and not the one of
# the last event: etcd sends a long history in parts of 1000 revisions. No error is emitted, although the client promises to replay.
set -euo pipefail
etcd_version=v3.7.3
client_version=1.1.2
grpc_version=1.14.7

tmp=$(mktemp -d)
pid=
finish() {
	if [ -n "$pid" ]; then
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	fi
	rm -rf "$tmp"
}
trap finish EXIT

mkdir "$tmp/build" "$tmp/node"
(
	cd "$tmp/build"
	go mod init finding
	go get "go.etcd.io/etcd/server/v3@$etcd_version"
	CGO_ENABLED=0 go build -o "$tmp/etcd" go.etcd.io/etcd/server/v3
	cd "$tmp/node"
	npm init --yes
	npm install --no-audit --no-fund "etcd3@$client_version" "@grpc/grpc-js@$grpc_version"
) >"$tmp/build.log" 2>&1 &
wait $! || { cat "$tmp/build.log"; exit 1; }
"$tmp/etcd" --version | sed -n 1p
echo "Node.js $(node --version), etcd3 $client_version, @grpc/grpc-js $grpc_version"

read -r client peer < <(python3 -c 'import socket
a, b = socket.socket(), socket.socket()
a.bind(("127.0.0.1", 0)); b.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
url=http://127.0.0.1:$client
"$tmp/etcd" --data-dir "$tmp/data" --unsafe-no-fsync --listen-client-urls "$url" --advertise-client-urls "$url" \
	--listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
	--initial-cluster "default=http://127.0.0.1:$peer" >"$tmp/etcd.log" 2>&1 &
pid=$!
curl --silent --retry 60 --retry-delay 1 --retry-connrefused --retry-max-time 60 "$url/health" >"$tmp/health"

cat >"$tmp/node/watch.js" <<'JS'
const net = require('net');
const { Etcd3 } = require('etcd3');
const port = Number(process.argv[2]);
const changes = 3000;

// A proxy whose connections can be cut, as a member's are when its pod is restarted.
const sockets = new Set();
const proxy = net.createServer(near => {
  const far = net.connect(port, '127.0.0.1');
  for (const socket of [near, far]) {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => { near.destroy(); far.destroy(); sockets.delete(socket); });
  }
  near.pipe(far);
  far.pipe(near);
});

async function main() {
  const direct = new Etcd3({ hosts: `http://127.0.0.1:${port}` });
  const first = Number((await direct.put('k').value('first')).header.revision);
  for (let written = 0; written < changes; written += 100) {
    await Promise.all(Array.from({ length: 100 }, (_, n) => direct.put('k').value(`${written + n} ${'.'.repeat(200)}`)));
  }
  await new Promise(resolve => proxy.listen(0, '127.0.0.1', resolve));

  const watched = new Etcd3({ hosts: `http://127.0.0.1:${proxy.address().port}` });
  const seen = new Set();
  const errors = [];
  let reconnected;
  const again = new Promise(resolve => { reconnected = resolve; });
  let connections = 0;
  const watcher = watched.watch().key('k').startRevision(String(first)).watcher();
  watcher.on('error', error => errors.push(error.message));
  watcher.on('connected', () => { connections += 1; if (connections === 2) reconnected(); });
  let cut = false;
  const ended = new Promise(resolve => watcher.on('data', answer => {
    answer.events.forEach(event => seen.add(Number(event.kv.mod_revision)));
    if (answer.events.some(event => event.kv.value.toString() === 'last')) resolve();
    if (cut) return;
    cut = true;
    const last = Number(answer.events.at(-1).kv.mod_revision);
    console.log(`first answer: revisions ${first} to ${last}, header ${answer.header.revision}, resumes at ${watcher.lastRevision()}`);
    sockets.forEach(socket => socket.destroy());
  }));
  await again;
  const last = Number((await direct.put('k').value('last')).header.revision);
  await ended;
  const lost = last - first + 1 - seen.size;
  console.log(`written: ${last - first + 1} revisions, seen by the watch: ${seen.size}, lost: ${lost}, errors emitted: ${errors.length}`);
  // What arrives between the first answer and the cut depends on the machine, so only the loss is compared.
  process.exit(lost > 0 && errors.length === 0 ? 0 : 1);
}
main();
JS
if node "$tmp/node/watch.js" "$client"; then
	echo "as stated"
else
	echo "the behaviour has changed"
	false
fi
