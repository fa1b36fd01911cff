/**
 * Goal: HOST:PORT is read as people write it, and nothing but this machine counts as loopback, since that is
 * what decides whether a VM may travel unencrypted. Method: tables of what is taken, and of what is not.
 */
import { describe, expect, test } from 'vitest';
import { formatEndpoint, isLoopback, parseEndpoint, requireSecure } from '../../src/cli/endpoint.ts';
import { UsageError } from '../../src/cli/usage-error.ts';

describe('HOST:PORT', () => {
  test.each([
    ['localhost:4433', 'localhost', 4433],
    ['127.0.0.1:0', '127.0.0.1', 0],
    ['host-7.example.org:65535', 'host-7.example.org', 65535],
    ['[::1]:4433', '::1', 4433],
    ['[fe80::1%eth0]:9', 'fe80::1%eth0', 9],
  ])('%s', (text, host, port) => {
    expect(parseEndpoint('--listen', text, 0)).toEqual({ host, port });
    expect(formatEndpoint({ host, port })).toBe(text);
  });

  test.each([
    '',
    'localhost',
    'localhost:',
    ':4433',
    '4433',
    '::1:4433',
    '[::1]',
    '[]:4433',
    '[localhost]:4433',
    'a b:1',
    'host:-1',
    'host:1e3',
    'host:65536',
    'host:999999',
    'tcp://host:1',
  ])('refuses %j, naming the option', (text) => {
    expect(() => parseEndpoint('--listen', text, 0)).toThrow(UsageError);
    expect(() => parseEndpoint('--listen', text, 0)).toThrow('--listen');
  });

  test('port 0 is for listening only', () => {
    expect(() => parseEndpoint('--to', 'localhost:0', 1)).toThrow('--to: the port must be from 1 to 65535');
  });
});

describe('loopback', () => {
  test.each(['127.0.0.1', '127.255.255.254', '::1', '0:0:0:0:0:0:0:1', 'localhost', 'LOCALHOST'])(
    '%s',
    (host) => {
      expect(isLoopback({ host, port: 1 })).toBe(true);
      expect(() => requireSecure('--to', { host, port: 1 }, false)).not.toThrow();
    },
  );

  test.each([
    '0.0.0.0',
    '::',
    '128.0.0.1',
    '126.255.255.255',
    '10.0.0.1',
    '::2',
    '::1%eth0',
    '127.1',
    '127.0.0.1.example.org',
    'localhost.example.org',
    'host',
  ])('%s is not', (host) => {
    const endpoint = { host, port: 1 };
    expect(isLoopback(endpoint)).toBe(false);
    expect(() => requireSecure('--to', endpoint, false)).toThrow(
      /^--to .* give --cert, --key and --ca for TLS, or --no-tls/,
    );
    expect(() => requireSecure('--to', endpoint, true)).not.toThrow();
  });
});
