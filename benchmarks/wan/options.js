/** The command lines of the laboratory's tools. */
import { parseArgs } from 'node:util';

/** @param {string} message @returns {never} */
export function refuse(message) {
  process.stderr.write(`${message}\n`);
  process.exit(2);
}

/**
 * Reads a command line. Prints the usage and ends the process if that is asked for, or with exit code 2 if an option is
 * wrong.
 *
 * @template {string} Name
 * @param {string} usage @param {Record<Name, string | undefined>} defaults Of each option, all of which take a value.
 */
export function readOptions(usage, defaults) {
  const names = /** @type {Name[]} */ (Object.keys(defaults));
  const values = parse(usage, names);
  if (values.help === true) {
    process.stdout.write(usage);
    process.exit(0);
  }
  /** @param {Name} name */
  const text = (name) => /** @type {string | undefined} */ (values[name]) ?? defaults[name];
  /** @param {Name} name @param {string | undefined} given @param {number} least @param {number} most */
  const check = (name, given, least, most) => {
    const value = Number(given);
    if (given === undefined || given.trim() === '' || !(value >= least && value <= most))
      return refuse(`--${name} must be ${least} to ${most}\n\n${usage}`);
    return value;
  };
  return {
    text,
    /** @param {Name} name @param {number} least @param {number} most */
    number: (name, least, most) => check(name, text(name), least, most),
    /** Rounded down. @param {Name} name @param {number} least @param {number} most */
    whole: (name, least, most) => Math.floor(check(name, text(name), least, most)),
    /** With commas between. @param {Name} name @param {number} least @param {number} most */
    numbers: (name, least, most) =>
      (text(name) ?? '').split(',').map((each) => check(name, each, least, most)),
  };
}

/** @param {string} usage @param {readonly string[]} names @returns {Record<string, string | boolean | undefined>} */
function parse(usage, names) {
  const options = Object.fromEntries(names.map((name) => [name, { type: /** @type {const} */ ('string') }]));
  try {
    return parseArgs({ options: { ...options, help: { type: 'boolean', default: false } } }).values;
  } catch (error) {
    return refuse(`${error instanceof Error ? error.message : error}\n\n${usage}`);
  }
}
