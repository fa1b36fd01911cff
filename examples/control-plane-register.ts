/**
 * Both hosts claim ownership in one database of a control plane, which need do no more than compare and set.
 * Here the source's host is cut off at the worst moment, just after it gave the VM away: the migration ends
 * there undecided, with the guest paused. Once the database can be reached again, `recover()` reads in it
 * what the destination decided, and asks nobody.
 */
import {
  type ClaimRole,
  type ClaimValue,
  createDestination,
  createSource,
  MigrationError,
  memoryLink,
  type OwnershipRegister,
  recover,
} from 'longhaul';
import { createMemoryBackend, createMemoryVm } from 'longhaul/memory';

/** What is asked of the database; a `Map` stands in for it. Both calls are atomic and durable. */
interface Database {
  /** Sets the key if it has no value, and resolves to the value that it has then. */
  setIfAbsent(key: string, value: string): Promise<string>;
  /** Every key that begins so, with its value. */
  list(prefix: string): Promise<readonly (readonly [key: string, value: string])[]>;
}

/** A register in a database that all hosts share. */
function databaseRegister(database: Database): OwnershipRegister {
  // An id may hold any character, also the separator.
  const prefix = (vmId: string) => `ownership/${encodeURIComponent(vmId)}/`;
  return {
    async claim(vmId, epoch, role, value) {
      const key = `${prefix(vmId)}${epoch}/${role}`;
      return failingAsRegister(async () => (await database.setIfAbsent(key, value)) as ClaimValue);
    },
    async read(vmId) {
      const entries = await failingAsRegister(() => database.list(prefix(vmId)));
      return entries.map(([key, value]) => {
        const [epoch, role] = key.slice(prefix(vmId).length).split('/');
        return { epoch: Number(epoch), role: role as ClaimRole, value: value as ClaimValue };
      });
    },
  };
}

/** After a failed call nothing is known: the claim may stand. The engine reckons with that. */
async function failingAsRegister<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    throw new MigrationError('register', `the control plane's database: ${cause}`, { cause });
  }
}

const rows = new Map<string, string>();
const reachable = { fromSource: true };

function connectTo(rowsOfAll: Map<string, string>, isReachable: () => boolean): Database {
  const check = () => {
    if (!isReachable()) throw new Error('no route to host');
  };
  return {
    async setIfAbsent(key, value) {
      check();
      const standing = rowsOfAll.get(key) ?? value;
      rowsOfAll.set(key, standing);
      return standing;
    },
    async list(prefix) {
      check();
      return [...rowsOfAll].filter(([key]) => key.startsWith(prefix));
    },
  };
}

const sourceRegister = databaseRegister(connectTo(rows, () => reachable.fromSource));
const destinationRegister = databaseRegister(connectTo(rows, () => true));

const vm = createMemoryVm({
  vmId: 'web-1',
  memoryBytes: 16 << 20,
  disks: [{ id: 'vda', sizeBytes: 16 << 20 }],
});
const sourceVm = vm.source();
const backend = createMemoryBackend();
const link = memoryLink({ rttMs: 5 });

/** The source's host loses its network, to the destination and to the database. */
async function cutOff(): Promise<void> {
  reachable.fromSource = false;
  await link.source.close();
  link.cut();
}

const source = createSource({
  vm: sourceVm,
  transport: link.source,
  register: sourceRegister,
  policy: { decideMsMax: 300 },
});
const destination = createDestination({
  backend,
  transport: link.destination,
  register: {
    ...destinationRegister,
    async claim(...claim) {
      const value = await destinationRegister.claim(...claim);
      await cutOff();
      return value;
    },
  },
});

const [sent, received] = await Promise.all([source.run(), destination.run()]);
console.log(`source:      ${sent.outcome} (${sent.error?.code}), its guest is ${sent.error?.guest}`);
console.log(`destination: ${received.outcome}, its guest is ${backend.vm?.state}`);

reachable.fromSource = true;
const { vmId, epoch } = sent;
// A shared register does not say which of the hosts this is, so the attempt has to be named.
const report = await recover({ role: 'source', vmId, epoch, register: sourceRegister, vm: sourceVm });
console.log(`recover():   ${report.action}, the ${report.owner} owns ${report.vmId}; here it is ${vm.state}`);
console.log('the database:');
for (const [key, value] of rows) console.log(`  ${key} = ${value}`);

process.exitCode = report.action === 'released' && backend.vm?.state === 'running' ? 0 : 1;
vm.destroy();
backend.vm?.destroy();
