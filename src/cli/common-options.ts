import type { OptionSpec } from './options.ts';

/** `--register` */
export const registerOption: OptionSpec = {
  value: 'DIR',
  help:
    'where ownership is claimed (default $XDG_STATE_HOME/longhaul/register, else ' +
    '~/.local/state/longhaul/register)',
};

/** `--insecure` */
export const insecureOption: OptionSpec = {
  help: 'allow plain TCP beyond loopback: anybody on the way can read and change the VM',
};

/** `--json` */
export const jsonOption: OptionSpec = {
  help: 'print the report as one JSON object, on the last line of stdout',
};
