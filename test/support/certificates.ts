/**
 * Certificates for tests, made by `openssl` in a directory of their own, so that none that is kept here runs out. Without
 * `openssl` the tests that need them are skipped.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const opensslAvailable = spawnSync('openssl', ['version']).status === 0;

/** What {@link tls} takes, and where the command line finds it. */
export interface TestCredentials {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
  readonly files: { readonly cert: string; readonly key: string; readonly ca: string };
}

/** Who a certificate is for, by whom, and until when. */
export interface TestCertificate {
  /** As `subjectAltName` has it; empty: it has none, and only its subject names this machine. Default: this machine. */
  readonly names?: string;
  /** The name of the CA that signs; made when first named. Default: `ca`. */
  readonly ca?: string;
  /** Default 2; less than 0 has expired. */
  readonly days?: number;
}

export class TestCertificates {
  readonly #directory = mkdtempSync(join(tmpdir(), 'longhaul-certificates-'));
  readonly #authorities = new Set<string>();
  #made = 0;

  make({ names = 'DNS:localhost,IP:127.0.0.1', ca = 'ca', days = 2 }: TestCertificate = {}): TestCredentials {
    this.#authority(ca);
    this.#made += 1;
    const path = (suffix: string) => join(this.#directory, `${this.#made}.${suffix}`);
    writeFileSync(path('ext'), names === '' ? 'basicConstraints=CA:FALSE' : `subjectAltName=${names}`);
    this.#run('req', ...newKey(path('key')), '-subj', '/CN=localhost', '-out', path('csr'));
    const signer = ['-CA', this.#path(`${ca}.pem`), '-CAkey', this.#path(`${ca}.key`), '-CAcreateserial'];
    const validity = ['-days', String(days), '-extfile', path('ext')];
    this.#run('x509', '-req', '-in', path('csr'), ...signer, ...validity, '-out', path('pem'));
    const files = { cert: path('pem'), key: path('key'), ca: this.#path(`${ca}.pem`) };
    const read = (file: string) => readFileSync(file, 'utf8');
    return { cert: read(files.cert), key: read(files.key), ca: read(files.ca), files };
  }

  [Symbol.dispose](): void {
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #authority(name: string): void {
    if (this.#authorities.has(name)) return;
    this.#authorities.add(name);
    const out = ['-subj', `/CN=${name}`, '-days', '2', '-out', this.#path(`${name}.pem`)];
    this.#run('req', '-x509', ...newKey(this.#path(`${name}.key`)), ...out);
  }

  #path(name: string): string {
    return join(this.#directory, name);
  }

  #run(...args: readonly string[]): void {
    execFileSync('openssl', args, { stdio: 'pipe' });
  }
}

function newKey(file: string): string[] {
  return ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', file];
}
