/**
 * A guest moves from one QEMU to another, the two ends in two processes.
 *
 *     qemu receive QMP-SOCKET HOST:PORT REGISTER-DIRECTORY
 *     qemu send    QMP-SOCKET HOST:PORT REGISTER-DIRECTORY
 *
 * QMP-SOCKET is a QMP socket (`-qmp unix:PATH,server=on,wait=off`) of the QEMU at that end; the receiver's is
 * a QEMU started with `-incoming defer`, and otherwise with the same devices. Each host keeps its register
 * directory for as long as it has VMs.
 */
import { parseArgs } from 'node:util';
import {
  askDecision,
  createDestination,
  fileRegister,
  type Migration,
  type MigrationReport,
  recover,
} from 'longhaul';
import { createQemuBackend, createQemuSource, openQemuSource } from 'longhaul/qemu';
import { tcp } from 'longhaul/tcp';

const { positionals } = parseArgs({ allowPositionals: true });
const [role, qmp = '', address = '', directory = ''] = positionals;
const [, host = '127.0.0.1', port = '0'] = /^(.*):(\d+)$/.exec(address) ?? [];
const register = fileRegister(directory);

const interrupted = new AbortController();
process.once('SIGINT', () => interrupted.abort());

async function receive(): Promise<MigrationReport> {
  const transport = tcp({ listen: { host, port: Number(port) } });
  try {
    const bound = await transport.listening();
    console.log(`listening on ${bound.host}:${bound.port}`);
    const backend = createQemuBackend({ qmp });
    return await shown(createDestination({ backend, transport, register }));
  } finally {
    await transport.close();
  }
}

async function send(): Promise<MigrationReport> {
  const connect = { host, port: Number(port) };
  const source = createQemuSource({
    qmp,
    transport: { tcp: { connect } },
    register: { directory },
    policy: { downtimeMsMax: 500 },
  });
  const report = await shown(source);
  if (report.outcome !== 'undecided') return report;
  // Given, and the answer never came: the guest is paused here until the destination says whose it is.
  const { vmId, epoch } = report;
  const transport = tcp({ connect });
  const vm = await openQemuSource({ qmp, recovery: true });
  try {
    const ask = askDecision({ transport, vmId });
    console.log(await recover({ role: 'source', vmId, epoch, register, vm, ask }));
    return report;
  } finally {
    await vm.detach();
    await transport.close();
  }
}

function shown(migration: Migration): Promise<MigrationReport> {
  migration.on('phase', (phase) => console.log(phase));
  return migration.run({ signal: interrupted.signal });
}

const report = role === 'receive' ? await receive() : await send();
console.log(`${report.outcome}: the ${report.owner} owns ${report.vmId}`);
if (report.error !== undefined) console.log(`${report.error.code}: ${report.error.message}`);
process.exitCode = report.outcome === 'completed' ? 0 : 1;
