/**
 * Goal: whatever is wrong with an option is told by its name, before anything happens. Method: tables of
 * arguments and of what is said.
 */
import { homedir } from 'node:os';
import { describe, expect, test } from 'vitest';
import { parseOptions } from '../../src/cli/options.ts';
import { UsageError } from '../../src/cli/usage-error.ts';

const specs = {
  name: { value: 'TEXT', help: '' },
  count: { value: 'N', help: '' },
  to: { value: 'HOST:PORT', help: '' },
  register: { value: 'DIR', help: '' },
  'no-tls': { help: '' },
  cert: { value: 'FILE', help: '' },
  disk: { value: 'ID=MODE', repeatable: true, help: '' },
};

const parse = (...args: string[]) => parseOptions(specs, args);

describe('parsing', () => {
  test('takes values after a space or an equals sign, and flags', () => {
    const options = parse('--name=a b', '--count', '3', '--no-tls');
    expect(options.text('name')).toBe('a b');
    expect(options.number('count', { min: 1, max: 3, whole: true })).toBe(3);
    expect(options.flag('no-tls')).toBe(true);
  });

  test('what was not given is undefined, or false', () => {
    expect(parse().text('name')).toBeUndefined();
    expect(parse().number('count', { min: 0, max: 1 })).toBeUndefined();
    expect(parse().endpoint('to', 1)).toBeUndefined();
    expect(parse().flag('no-tls')).toBe(false);
  });

  test.each([
    [['--nope'], "Unknown option '--nope'"],
    [['-x'], "Unknown option '-x'"],
    [['--name'], "Option '--name <value>' argument missing"],
    [['--name', '--no-tls'], "Option '--name' argument is ambiguous"],
    [['--no-tls=yes'], "Option '--no-tls' does not take an argument"],
    [['file.txt'], "Unexpected argument 'file.txt'"],
    [['--name', 'a', '--name', 'b'], '--name is given twice'],
  ])('refuses %j', (args, message) => {
    expect(() => parse(...args)).toThrow(new UsageError(message));
  });
});

describe('values', () => {
  test('choices come by key, which may hold an equals sign', () => {
    const options = parse('--disk', 'vd0=copy', '--disk=a=b=leave');
    expect(options.choices('disk', ['copy', 'leave'])).toEqual({ vd0: 'copy', 'a=b': 'leave' });
    expect(parse().choices('disk', ['copy'])).toEqual({});
    for (const text of ['vd0', '=copy', 'vd0=', 'vd0=lose']) {
      expect(() => parse('--disk', text).choices('disk', ['copy', 'leave'])).toThrow(
        new UsageError(`--disk must be ID=copy|leave, not '${text}'`),
      );
    }
  });

  test('a missing or empty one is named', () => {
    expect(() => parse().required('name')).toThrow(new UsageError('--name is missing'));
    expect(() => parse('--name=').required('name')).toThrow(new UsageError('--name is empty'));
  });

  test.each(['0', '65', '1.5', '-1', 'four', '1e1', '0x10', ' 4', 'NaN', 'Infinity'])(
    'a number is not %j',
    (text) => {
      const range = { min: 1, max: 64, whole: true };
      const message = `--count must be a whole number, from 1 to 64, not '${text}'`;
      expect(() => parse(`--count=${text}`).number('count', range)).toThrow(new UsageError(message));
    },
  );

  test('a number may have fractions where they make sense', () => {
    expect(parse('--count=0.5').number('count', { min: 0, max: 1 })).toBe(0.5);
  });

  test('a choice is one of those that there are', () => {
    expect(parse('--name=source').choice('name', ['source', 'destination'])).toBe('source');
    const message = "--name must be source or destination, not 'dest'";
    expect(() => parse('--name=dest').choice('name', ['source', 'destination'])).toThrow(
      new UsageError(message),
    );
  });

  test('an address beyond loopback needs --cert or --no-tls', () => {
    expect(() => parse('--to=10.0.0.2:1').endpoint('to', 1)).toThrow('--no-tls');
    expect(parse('--to=10.0.0.2:1', '--no-tls').endpoint('to', 1)).toEqual({ host: '10.0.0.2', port: 1 });
    expect(parse('--to=10.0.0.2:1', '--cert=f').endpoint('to', 1)).toEqual({ host: '10.0.0.2', port: 1 });
    expect(parse('--to=[::1]:1').endpoint('to', 1)).toEqual({ host: '::1', port: 1 });
  });
});

describe("the register's directory", () => {
  const home = `${homedir()}/.local/state/longhaul/register`;
  test.each([
    ['what was given', ['--register=/somewhere'], { XDG_STATE_HOME: '/state' }, '/somewhere'],
    ["the user's state", [], { XDG_STATE_HOME: '/state' }, '/state/longhaul/register'],
    ["the home's default", [], {}, home],
    ['not a relative path from the environment', [], { XDG_STATE_HOME: 'state' }, home],
  ])('is %s', (_, args, env, directory) => {
    expect(parse(...args).registerDirectory(env)).toBe(directory);
  });
});
