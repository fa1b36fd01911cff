import { MigrationError } from 'longhaul';

const roles = { source: ['given'], destination: ['owner', 'declined'], return: ['reclaimed'] };

/**
 * An ownership register in any store that can put a value under a key if there is none yet. `store` has
 * `putIfAbsent(key, value)`, which resolves to the value that is there afterwards, and `list(prefix)`, which
 * resolves to keys and values; both as durable as the store is.
 */
export function keyValueRegister(store) {
  const prefix = (vmId) => {
    ensure(
      typeof vmId === 'string' && vmId.length >= 1 && vmId.length <= 255,
      'vmId has not 1 to 255 characters',
    );
    return `claims/${Buffer.from(vmId, 'utf16le').toString('hex')}/`;
  };
  return {
    async claim(vmId, epoch, role, value) {
      ensure(Number.isSafeInteger(epoch) && epoch >= 1, `there is no attempt ${epoch}`);
      ensure(Object.hasOwn(roles, role) && roles[role].includes(value), `${role} cannot claim ${value}`);
      const key = `${prefix(vmId)}${epoch}.${role}`;
      return failingAs(() => store.putIfAbsent(key, value));
    },
    async read(vmId) {
      const start = prefix(vmId);
      const entries = await failingAs(() => store.list(start));
      return entries.map(([key, value]) => {
        const [epoch, role] = key.slice(start.length).split('.');
        return { epoch: Number(epoch), role, value };
      });
    },
  };
}

function ensure(condition, message) {
  if (!condition) throw new MigrationError('invalid-argument', message);
}

async function failingAs(work) {
  try {
    return await work();
  } catch (error) {
    throw new MigrationError('register', `the store failed: ${error.message}`, { cause: error });
  }
}
