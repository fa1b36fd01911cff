import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Endpoint, parseEndpoint, requireSecure } from './endpoint.ts';
import { UsageError } from './usage-error.ts';

/** One option of a command. */
export interface OptionSpec {
  /** What stands for its value in the help, for example `HOST:PORT`. Absent: the option is a flag. */
  readonly value?: string;
  /** Whether it may be given more than once. */
  readonly repeatable?: boolean;
  readonly help: string;
}

type Values = Readonly<Record<string, string | boolean | readonly string[] | undefined>>;

/** The options of a command by name, in the order of the help. */
export type OptionSpecs = Readonly<Record<string, OptionSpec>>;

/** The range of a numeric option. */
export interface NumberRange {
  readonly min: number;
  readonly max: number;
  /** Whether fractions are refused. */
  readonly whole?: boolean;
}

/**
 * The options that were given. Everything that reads one throws {@link UsageError} where it makes no sense.
 */
export class Options {
  readonly #values: Values;

  constructor(values: Values) {
    this.#values = values;
  }

  flag(name: string): boolean {
    return this.#values[name] === true;
  }

  text(name: string): string | undefined {
    const value = this.#values[name];
    if (value === '') throw new UsageError(`--${name} is empty`);
    return typeof value === 'string' ? value : undefined;
  }

  /** Every `KEY=VALUE` of a repeatable option, by key; the value is one of the choices, and may not hold an equals sign. */
  choices<T extends string>(name: string, choices: readonly T[]): Readonly<Record<string, T>> {
    const texts = this.#values[name];
    const chosen = new Map<string, T>();
    for (const text of Array.isArray(texts) ? texts : []) {
      const [, key, value] = /^(.+)=([^=]*)$/.exec(text) ?? [];
      const choice = choices.find((candidate) => candidate === value);
      if (key === undefined || choice === undefined) {
        throw new UsageError(`--${name} must be ID=${choices.join('|')}, not '${text}'`);
      }
      if (chosen.has(key)) throw new UsageError(`--${name} ${key}=... is given twice`);
      chosen.set(key, choice);
    }
    return Object.fromEntries(chosen);
  }

  /** Every `ID=VALUE` of a repeatable option, by id, which ends at the first equals sign; `value` stands for the value in what is said. */
  pairs(name: string, value: string): Readonly<Record<string, string>> {
    const texts = this.#values[name];
    const pairs = new Map<string, string>();
    for (const text of Array.isArray(texts) ? texts : []) {
      const [, id, given] = /^([^=]+)=(.+)$/s.exec(text) ?? [];
      if (id === undefined || given === undefined)
        throw new UsageError(`--${name} must be ID=${value}, not '${text}'`);
      if (pairs.has(id)) throw new UsageError(`--${name} ${id}=... is given twice`);
      pairs.set(id, given);
    }
    return Object.fromEntries(pairs);
  }

  required(name: string): string {
    return this.text(name) ?? missing(name);
  }

  choice<T extends string>(name: string, choices: readonly T[]): T {
    const text = this.required(name);
    const choice = choices.find((candidate) => candidate === text);
    if (choice === undefined)
      throw new UsageError(`--${name} must be ${choices.join(' or ')}, not '${text}'`);
    return choice;
  }

  number(name: string, { min, max, whole = false }: NumberRange): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = /^\d+(?:\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
    if (value >= min && value <= max && (!whole || Number.isInteger(value))) return value;
    const range = max === Number.MAX_SAFE_INTEGER ? `${min} or more` : `from ${min} to ${max}`;
    throw new UsageError(`--${name} must be a ${whole ? 'whole ' : ''}number, ${range}, not '${text}'`);
  }

  /** A `HOST:PORT`, which must be loopback unless there is a `cert`, or the flag `no-tls` is set. */
  endpoint(name: string, portMin: 0 | 1): Endpoint | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const endpoint = parseEndpoint(`--${name}`, text, portMin);
    requireSecure(`--${name}`, endpoint, this.flag('no-tls') || this.text('cert') !== undefined);
    return endpoint;
  }

  requiredEndpoint(name: string, portMin: 0 | 1): Endpoint {
    return this.endpoint(name, portMin) ?? missing(name);
  }

  /** `--register`, or where this user's state belongs. */
  registerDirectory(env: NodeJS.ProcessEnv): string {
    const given = this.text('register');
    if (given !== undefined) return given;
    const state = env.XDG_STATE_HOME;
    // A relative one is to be ignored, says the specification that the variable is from.
    const base = state !== undefined && isAbsolute(state) ? state : join(homedir(), '.local', 'state');
    return join(base, 'longhaul', 'register');
  }
}

/** Reads a command's arguments. Throws {@link UsageError}. */
export function parseOptions(specs: OptionSpecs, args: readonly string[]): Options {
  const options = Object.fromEntries(
    Object.entries(specs).map(([name, { value, repeatable = false }]) => [
      name,
      { type: value === undefined ? ('boolean' as const) : ('string' as const), multiple: repeatable },
    ]),
  );
  try {
    const { values, tokens } = parseArgs({ args: [...args], options, strict: true, tokens: true });
    const seen = new Set<string>();
    for (const token of tokens) {
      if (token.kind !== 'option') continue;
      if (seen.has(token.name) && specs[token.name]?.repeatable !== true)
        throw new UsageError(`--${token.name} is given twice`);
      seen.add(token.name);
    }
    return new Options(values as Values);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    // Node's first sentence names the option; the others are advice for programmers.
    throw new UsageError(error.message.split(/\.?\n|\. /, 1)[0] ?? error.message);
  }
}

function missing(name: string): never {
  throw new UsageError(`--${name} is missing`);
}
