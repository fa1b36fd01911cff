import { highestEpoch } from '../../core/handover/ownership.ts';
import type { MigrationPolicy, MigrationReport } from '../../interfaces/migration.ts';
import type { Claim } from '../../interfaces/register.ts';
import { createPrng, type Prng } from '../../util/prng.ts';
import { delay } from '../../util/promises.ts';
import type { VirtualEnvironment } from '../virtual-time.ts';
import { Chance } from './chance.ts';
import { foreignGeneration } from './content.ts';
import { createSimulatedDisk, SimulatedDisk } from './disk.ts';
import { noteReport, type RecoveryRecord, SimulatedEnd } from './end.ts';
import { EventLog } from './event-log.ts';
import { createSimulatedBackend, type SimulatedBackend } from './hypervisor.ts';
import { createNetwork, type Network, type NetworkEvent } from './network.ts';
import { Oracle } from './oracle.ts';
import { SimulatedProcess } from './process.ts';
import { SimulatedRegister } from './register.ts';
import { destinationRole, type RoleOptions, sourceRole } from './roles.ts';
import { type Action, classOf, diskModesOf, type EndName, type Scenario } from './scenario.ts';
import { Timeline } from './timeline.ts';
import { createSimulatedVm, type SimulatedVm } from './vm.ts';
import type { VmEvent } from './vm-events.ts';

/** The VM of every scenario. */
const vmId = 'vm-1';
const endNames: readonly EndName[] = ['source', 'destination'];

/** Everything of one simulation. Its methods are what a run is made of, and what a timeline can do. */
export class World {
  readonly environment: VirtualEnvironment;
  readonly scenario: Scenario;
  readonly log: EventLog;
  readonly oracle: Oracle;
  readonly network: Network;
  readonly vm: SimulatedVm;
  readonly backend: SimulatedBackend;
  readonly recoveries: RecoveryRecord[] = [];
  /** How often each class of action was performed. */
  readonly performed = new Map<string, number>();
  readonly ends: Readonly<Record<EndName, SimulatedEnd>>;
  readonly #prng: Prng;
  readonly #registers: Readonly<Record<EndName, SimulatedRegister>>;
  readonly #timeline: Timeline;
  readonly #processes: SimulatedProcess[] = [];
  #operatorPaused = false;

  constructor(environment: VirtualEnvironment, seed: number, scenario: Scenario, keepLog: boolean) {
    this.environment = environment;
    this.scenario = scenario;
    this.#prng = createPrng(seed);
    this.log = new EventLog(() => environment.now(), keepLog);
    this.#timeline = new Timeline(environment, scenario.timeline, (action) => this.perform(action));
    this.network = createNetwork({
      environment,
      seed: this.#prng.next(),
      paths: scenario.paths,
      observe: (event) => this.#networkEvent(event),
    });
    this.#registers = this.#makeRegisters();
    const modes = diskModesOf(scenario);
    const disks = scenario.vm.disks.map((disk) =>
      modes.get(disk.id) === 'shared' ? createSimulatedDisk(disk, { environment, vmId }) : disk,
    );
    const sharedDisks = disks.filter((disk) => disk instanceof SimulatedDisk);
    const observe = (event: VmEvent) => this.#vmEvent(event);
    const { source, destination, disk, loadsOnce, replicaChanged, keepsDisks, takesDisksAlone } =
      scenario.hosts ?? {};
    this.backend = createSimulatedBackend({
      environment,
      observe,
      sharedDisks,
      ...(destination && { timings: destination }),
      ...(disk && { disk }),
      ...(loadsOnce && { loadsOnce }),
      ...(takesDisksAlone !== undefined && { takesDisksAlone }),
      ...(keepsDisks && { keepsDisks }),
      ...(replicaChanged !== undefined && { existingDisks: this.#replicas(replicaChanged) }),
    });
    this.vm = createSimulatedVm({
      ...scenario.vm,
      environment,
      observe,
      vmId,
      disks,
      seed: this.#prng.next(),
      paused: true,
      ...(source && { timings: source }),
    });
    this.oracle = new Oracle({
      scenario,
      now: () => environment.now(),
      vm: this.vm,
      backend: this.backend,
      claims: (end) => this.#registers[end].claims,
      bytesWereHurt: () => this.performed.has('flip'),
      operatorPaused: () => this.#operatorPaused,
      leftDisks: [...modes].flatMap(([id, mode]) => (mode === 'leave' ? [id] : [])),
    });
    this.ends = this.#makeEnds();
    if (scenario.vm.paused !== true) this.vm.run();
  }

  /** The first attempt, with its timeline. Resolves once each end's run is over, or its process dead, and no entry is due. */
  async migrate(): Promise<void> {
    this.vm.guest.mark('migration');
    this.oracle.begins(this.scenario);
    this.ends.destination.begin();
    this.ends.source.begin();
    this.#timeline.start();
    await Promise.all([this.ends.source.over, this.ends.destination.over]);
    await this.#timeline.quiet();
  }

  /** All faults end, and what is dead starts again. */
  mend(): void {
    this.log.add('world', 'all is mended');
    this.#timeline.end();
    this.network.calm();
    for (const { name, ends: hosts = endNames, back, ...conditions } of this.scenario.paths) {
      const [near = 'source', far = 'destination'] = hosts;
      this.network.mend({ path: name });
      this.network.blackHole(false, { path: name });
      const { rateMbit = 1e6, delayMs = 0, jitterMs = 0, queueMs = 25, lossProbability = 0 } = conditions;
      const there = { rateMbit, delayMs, jitterMs, queueMs, lossProbability };
      this.network.change(there, { path: name, from: near });
      this.network.change({ ...there, ...back }, { path: name, from: far });
    }
    for (const register of Object.values(this.#registers)) register.clearFaults();
    this.vm.clearFaults();
    this.backend.clearFaults();
    const { capacityBytes: _, ...disk } = this.scenario.hosts?.disk ?? {};
    this.backend.setDisk(disk);
    this.ends.destination.mend();
    this.ends.source.mend();
  }

  /** Resolves once both ends know who owns the VM. */
  async settled(): Promise<void> {
    while (this.unsettled.length > 0) await delay(this.environment, 20);
  }

  /** Ends that do not know who owns the VM. */
  get unsettled(): readonly EndName[] {
    return endNames.filter((name) => !this.ends[name].settled);
  }

  /** A second attempt, between new processes. */
  async migrateAgain(policy: MigrationPolicy): Promise<readonly MigrationReport[]> {
    this.log.add('world', 'a second attempt');
    this.oracle.begins({ ...this.scenario, policy, rehearse: false, hosts: {} });
    const options = { ...this.#roleOptions('second'), namedEpoch: () => undefined };
    const roles = [destinationRole(options, this.backend, 60_000), sourceRole(options, this.vm, policy)];
    return Promise.all(
      roles.map(async (role) => {
        const report = await role.migration(role.start()).run();
        noteReport(this.log, report);
        this.oracle.ended(report);
        return report;
      }),
    );
  }

  /** The guest does nothing by itself any more, and every process closes what it has open. */
  async stop(): Promise<void> {
    this.log.add('world', 'over');
    for (const { guest } of [this.vm, ...this.backend.vms]) guest.stopWorkloads();
    await Promise.all(this.#processes.map((process) => process.close()));
  }

  /** Whoever has the guest now. */
  get holder(): SimulatedVm {
    return this.vm.state === 'released' ? (this.backend.vm ?? this.vm) : this.vm;
  }

  /** Does what an entry of the timeline says. */
  perform(action: Action): void {
    const kind = classOf(action);
    this.performed.set(kind, (this.performed.get(kind) ?? 0) + 1);
    this.log.add('world', JSON.stringify(action));
    if ('kill' in action) this.ends[action.kill].kill(action.how);
    else if ('restart' in action) this.ends[action.restart].restart();
    else if ('abort' in action) this.ends[action.abort].abort();
    else if ('pause' in action) this.#pause();
    else if ('vm' in action) this.#addFault(action.vm, action.fault);
    else if ('register' in action) this.#registers[action.register].addFault(action);
    else this.#disturb(action);
  }

  #disturb(action: NetworkAction): void {
    const { network } = this;
    const at = (path: string, from?: EndName) => ({ ...(path !== '*' && { path }), ...(from && { from }) });
    if ('cut' in action) network.cut(at(action.cut));
    else if ('mend' in action) network.mend(at(action.mend));
    else if ('darken' in action) network.blackHole(true, at(action.darken, action.from));
    else if ('lighten' in action) network.blackHole(false, at(action.lighten, action.from));
    else if ('reset' in action) network.resetAll(at(action.reset));
    else if ('change' in action) network.change(action.to, at(action.change, action.from));
    else if ('flip' in action) {
      const { flip, from, chunkBytesMin = 1 } = action;
      network.flipNextByte({ ...at(flip, from), chunkBytesMin });
    } else network.resetAfter(action.resetAfterBytes, at(action.path, action.from));
  }

  #pause(): void {
    if (this.vm.state !== 'running') return;
    this.#operatorPaused = true;
    void this.vm.pause();
  }

  #addFault(host: EndName, fault: Extract<Action, { readonly vm: EndName }>['fault']): void {
    const waiting = this.backend.vms.findLast(({ state }) => state === 'prepared' || state === 'loaded');
    const vm = host === 'source' ? this.vm : waiting;
    (fault.point === 'prepare' ? this.backend : (vm ?? this.backend)).addFault(fault);
  }

  #makeRegisters(): Readonly<Record<EndName, SimulatedRegister>> {
    const { environment, scenario } = this;
    const make = () =>
      new SimulatedRegister({
        environment,
        callMs: scenario.registerMs ?? 1,
        shared: scenario.registers === 'shared',
        stands: ({ epoch, value }) => {
          this.log.add('world', `${value} of attempt ${epoch} stands`);
          this.#timeline.claim(value);
        },
      });
    const source = make();
    return { source, destination: scenario.registers === 'shared' ? source : make() };
  }

  get #allClaims(): readonly Claim[] {
    const { source, destination } = this.#registers;
    return [...source.claims, ...destination.claims];
  }

  /** The VM's disks as they are at first, but for so much of each. */
  #replicas(changed: number): readonly SimulatedDisk[] {
    const chance = new Chance(this.#prng.next());
    return this.scenario.vm.disks.map((options) => {
      const disk = createSimulatedDisk(options, { environment: this.environment, vmId });
      const { generations } = disk.space;
      for (let unit = 0; unit < generations.size; unit++) {
        if (!chance.of(changed)) continue;
        generations.set(unit, chance.one([0, 1, foreignGeneration, chance.integer(2, 200)]));
      }
      return disk;
    });
  }

  #makeEnds(): Readonly<Record<EndName, SimulatedEnd>> {
    const { scenario, log, oracle, recoveries } = this;
    const witness = { log, oracle, recoveries, timeline: this.#timeline };
    const options: RoleOptions = {
      ...this.#roleOptions('first', (end, step) => this.#timeline.step(end, step)),
      hooks: scenario.hosts?.hooks,
      hookCalled: (name) => {
        log.add('destination', `hook ${name}`);
        oracle.hookCalled(name);
      },
    };
    const roles = [
      sourceRole(options, this.vm, scenario.policy, scenario.rehearse),
      destinationRole(options, this.backend, scenario.acceptMsMax ?? 10_000),
    ] as const;
    const [source, destination] = roles.map(
      (role) => new SimulatedEnd(role, witness, scenario.answers ?? true),
    ) as [SimulatedEnd, SimulatedEnd];
    return { source, destination };
  }

  #roleOptions(
    attempt: string,
    onStep: (end: EndName, step: Parameters<Timeline['step']>[1]) => void = () => {},
  ): RoleOptions {
    const { scenario } = this;
    const named = scenario.registers === 'shared' || scenario.namesAttempt === true;
    return {
      vmId,
      register: (end, process) => this.#registers[end].handle(end, process.tie),
      claims: (end) => this.#registers[end].claims,
      run: () => scenario.vm.paused !== true && !this.#operatorPaused,
      // The operator has a look at both registers. Where nothing was claimed, any number will do.
      namedEpoch: () => (named ? Math.max(1, highestEpoch(this.#allClaims)) : undefined),
      start: (end) => {
        const transport = this.network.transport({
          host: end,
          ...(end === 'destination'
            ? { listen: attempt }
            : { connect: { host: 'destination', name: attempt } }),
        });
        const step: ConstructorParameters<typeof SimulatedProcess>[3] = (name) => onStep(end, name);
        const codec = scenario.hosts?.codec === true;
        const process = new SimulatedProcess(this.environment, this.#prng.next(), transport, step, codec);
        this.#processes.push(process);
        return process;
      },
    };
  }

  #vmEvent(event: VmEvent): void {
    const host = event.host as EndName;
    this.log.add(host, describe(event));
    this.oracle.vmEvent(event);
    if (event.kind === 'state') this.#timeline.state(host, event.state);
  }

  /** What is delivered counts in the network's own digest. */
  #networkEvent({ kind, path, connection, host }: NetworkEvent): void {
    if (kind === 'deliver' || kind === 'loss' || kind === 'overflow' || kind === 'timeout') return;
    this.log.add('network', `${kind} ${path} ${connection} ${host}`);
  }
}

function describe(event: VmEvent): string {
  switch (event.kind) {
    case 'state':
      return `the VM is ${event.state}, was ${event.before}`;
    case 'started':
      return `takes possession, ${event.run ? 'runs' : 'paused'}`;
    case 'tap':
      return `tap ${event.set ? 'on' : 'off'} ${event.disk}`;
    case 'throttle':
      return `throttle ${event.fraction}`;
    case 'process':
      return `an engine ${event.attached ? 'attaches' : 'leaves'}`;
    case 'fault':
      return `strikes: ${JSON.stringify(event.fault)}`;
    case 'violation':
      return `contract: ${event.message}`;
    default:
      return `device state ${event.kind}`;
  }
}

type NetworkAction = Exclude<
  Action,
  | { readonly kill: EndName }
  | { readonly restart: EndName }
  | { readonly abort: EndName }
  | { readonly pause: 'source' }
  | { readonly vm: EndName }
  | { readonly register: EndName }
>;
