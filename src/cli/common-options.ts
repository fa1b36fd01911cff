import type { OptionSpec, OptionSpecs } from './options.ts';

/** `--register` */
export const registerOption: OptionSpec = {
  value: 'DIR',
  help:
    'where ownership is claimed (default $XDG_STATE_HOME/longhaul/register, else ' +
    '~/.local/state/longhaul/register)',
};

/** `--ticket-file` */
export const ticketOption: OptionSpec = {
  value: 'FILE',
  help: "the migration's ticket, from `longhaul ticket`, which both ends need; not to be open to other users",
};

/** `--cert`, `--key`, `--ca` and `--no-tls` */
export const tlsOptions = {
  cert: { value: 'FILE', help: "TLS: this end's certificate, in PEM; needed beyond loopback" },
  key: { value: 'FILE', help: 'TLS: the private key of --cert, in PEM' },
  ca: { value: 'FILE', help: "TLS: the CA that the other end's certificate has to be of, in PEM" },
  'no-tls': {
    help: 'plain TCP also beyond loopback: anybody on the way can read and change the VM, and be the other end',
  },
} as const satisfies OptionSpecs;

/** `--json` */
export const jsonOption: OptionSpec = {
  help: 'print the report as one JSON object, on the last line of stdout',
};
