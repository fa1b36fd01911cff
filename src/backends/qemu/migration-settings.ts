import { MigrationError } from '../../errors.ts';
import type { QmpClient, QmpObject } from './qmp.ts';
import { objectOf, objectsOf, stringOf } from './qmp-values.ts';

/** Until the switchover: nothing fits in so short a time, so QEMU goes on with its passes. Never 0: it would spin without syncing. */
const DOWNTIME_MS_RUNNING = 1;
/** At the switchover everything fits: when to stop the guest is the engine's decision, not QEMU's. */
const DOWNTIME_MS_SWITCHOVER = 2_000_000;

const CAPABILITIES_ON: readonly string[] = ['return-path', 'switchover-ack', 'auto-converge'];

/** What is set for the whole of a migration and nobody else is likely to set all of: by it an engine that died is known. */
const OWN_MARK: QmpObject = {
  'max-bandwidth': 100_000_000_000,
  // Armed at the least it can be: later it can be turned up and down, but not switched on.
  'throttle-trigger-threshold': 1,
  'cpu-throttle-increment': 99,
};

/** What a migration to a socket of ours has to be. */
const PLAIN: QmpObject = {
  'tls-creds': '',
  'tls-hostname': '',
  mode: 'normal',
  'avail-switchover-bandwidth': 0,
};

/** As QEMU has them unless somebody sets them (8.1 to 10.0). */
const DEFAULTS: QmpObject = {
  'max-bandwidth': 128 * 1024 * 1024,
  'downtime-limit': 300,
  'throttle-trigger-threshold': 50,
  'cpu-throttle-increment': 10,
  'cpu-throttle-initial': 20,
  'max-cpu-throttle': 99,
  'cpu-throttle-tailslow': false,
};

/** QEMU's throttle in percent; it cannot be less than 1 while it is armed. */
const THROTTLE_PERCENT_MIN = 1;
const THROTTLE_PERCENT_MAX = 99;

/**
 * QEMU's migration capabilities and parameters: set for us, and put back.
 *
 * Whatever else is on is switched off, because it would change the stream (compression, several channels, lists of dirty
 * bitmaps) or the switchover (postcopy, `pause-before-switchover`: with that one a guest stays stopped when we die).
 */
export class MigrationSettings {
  readonly #qmp: QmpClient;
  readonly #capabilities: ReadonlyMap<string, boolean>;
  readonly #parameters: QmpObject;
  #changed = false;
  #throttlePercent = THROTTLE_PERCENT_MIN;

  private constructor(qmp: QmpClient, capabilities: ReadonlyMap<string, boolean>, parameters: QmpObject) {
    this.#qmp = qmp;
    const isOurs = Object.entries(OWN_MARK).every(([name, value]) => parameters[name] === value);
    this.#capabilities = isOurs
      ? new Map([...capabilities.keys()].map((name) => [name, false]))
      : capabilities;
    this.#parameters = isOurs ? { ...parameters, ...DEFAULTS } : parameters;
    this.#changed = isOurs;
  }

  /**
   * Remembers how they are now; where an engine that died has left its own, QEMU's defaults, as nobody knows any more what was
   * before. Rejects with `unsupported` if this QEMU lacks what the switchover needs.
   */
  static async read(qmp: QmpClient, signal?: AbortSignal): Promise<MigrationSettings> {
    const list = await qmp.execute('query-migrate-capabilities', undefined, { signal });
    const capabilities = new Map<string, boolean>();
    for (const item of objectsOf(list, 'migration capabilities')) {
      capabilities.set(stringOf(item.capability, 'capability'), item.state === true);
    }
    const missing = CAPABILITIES_ON.filter((name) => !capabilities.has(name));
    if (missing.length > 0) {
      const { major, minor } = qmp.version;
      const what = `lacks the migration capabilities ${missing.join(', ')}; QEMU 8.1 has them`;
      throw new MigrationError('unsupported', `QEMU ${major}.${minor} ${what}`);
    }
    const parameters = await qmp.execute('query-migrate-parameters', undefined, { signal });
    return new MigrationSettings(qmp, capabilities, objectOf(parameters, 'migration parameters'));
  }

  /** Makes everything ready for a `migrate`; only while none is under way. */
  async apply(signal?: AbortSignal): Promise<void> {
    this.#changed = true;
    const throttle = this.#throttlePercent;
    await this.#set(
      {
        ...foreign(this.#parameters, PLAIN),
        ...OWN_MARK,
        'downtime-limit': DOWNTIME_MS_RUNNING,
        'cpu-throttle-initial': throttle,
        'max-cpu-throttle': throttle,
        'cpu-throttle-tailslow': false,
      },
      signal,
    );
    // After the mark, and put back before it: so whoever finds them finds the mark as well.
    const on = new Set(CAPABILITIES_ON);
    const wanted = [...this.#capabilities].filter(([name, state]) => state || on.has(name));
    await this.#setCapabilities(
      wanted.map(([name]) => [name, on.has(name)]),
      signal,
    );
  }

  /** Slows the guest by a fraction, from the next pass on; 0 is the 1 % that cannot be undercut. */
  async setThrottle(fraction: number): Promise<void> {
    const percent = Math.round(fraction * 100);
    this.#throttlePercent = Math.min(THROTTLE_PERCENT_MAX, Math.max(THROTTLE_PERCENT_MIN, percent));
    if (!this.#changed) return;
    // In one command: QEMU checks that the maximum is not below the initial value.
    await this.#set({
      'cpu-throttle-initial': this.#throttlePercent,
      'max-cpu-throttle': this.#throttlePercent,
    });
  }

  /** From here on QEMU stops the guest as soon as it has the acknowledgement. */
  async allowSwitchover(signal?: AbortSignal): Promise<void> {
    await this.#set({ 'downtime-limit': DOWNTIME_MS_SWITCHOVER }, signal);
  }

  /** Puts everything back as it was; only while no migration is under way. Idempotent. */
  async restore(): Promise<void> {
    if (!this.#changed) return;
    await this.#setCapabilities([...this.#capabilities]);
    const before: { [name: string]: unknown } = {};
    for (const [name, value] of Object.entries(this.#parameters)) {
      // Those that no command of ours touches stay untouched; some cannot even be set to what is reported.
      if (RESTORED.has(name)) before[name] = value;
    }
    await this.#set(before);
    this.#changed = false;
  }

  async #setCapabilities(
    states: readonly (readonly [string, boolean])[],
    signal?: AbortSignal,
  ): Promise<void> {
    const capabilities = states.map(([capability, state]) => ({ capability, state }));
    await this.#qmp.execute('migrate-set-capabilities', { capabilities }, { signal });
  }

  async #set(parameters: QmpObject, signal?: AbortSignal): Promise<void> {
    await this.#qmp.execute('migrate-set-parameters', parameters, { signal });
  }
}

/**
 * Makes a QEMU ready that waits for a migration: it is to take the plain stream over one connection, whatever it was prepared for.
 * Nothing is put back, as it takes no other. Rejects with `hypervisor`, `aborted`.
 */
export async function expectPlainStream(qmp: QmpClient, signal?: AbortSignal): Promise<void> {
  const list = await qmp.execute('query-migrate-capabilities', undefined, { signal });
  const on = objectsOf(list, 'migration capabilities').filter(({ state }) => state === true);
  const capabilities = on.map(({ capability }) => ({ capability, state: false }));
  if (on.length > 0) await qmp.execute('migrate-set-capabilities', { capabilities }, { signal });
  const parameters = await qmp.execute('query-migrate-parameters', undefined, { signal });
  const values = foreign(objectOf(parameters, 'migration parameters'), PLAIN);
  if (Object.keys(values).length > 0) await qmp.execute('migrate-set-parameters', values, { signal });
}

/** Those of the values that this QEMU knows and has set otherwise. */
function foreign(parameters: QmpObject, values: QmpObject): QmpObject {
  return Object.fromEntries(
    Object.entries(values).filter(
      ([name, value]) => parameters[name] !== undefined && parameters[name] !== value,
    ),
  );
}

const RESTORED: ReadonlySet<string> = new Set([
  'tls-creds',
  'tls-hostname',
  'mode',
  'avail-switchover-bandwidth',
  'max-bandwidth',
  'downtime-limit',
  'throttle-trigger-threshold',
  'cpu-throttle-increment',
  'cpu-throttle-initial',
  'max-cpu-throttle',
  'cpu-throttle-tailslow',
]);
