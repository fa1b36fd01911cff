/** Certificates: reading them, and what is wrong with one, in our codes. */
import { X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { type ErrorCode, MigrationError, messageOf } from '../errors.ts';

/** What one end shows, and whom it trusts. */
export interface Credentials {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
  /** The end's own certificate, the first in `cert`. */
  readonly own: X509Certificate;
}

/** Throws `invalid-argument` unless all are PEM and the key is the certificate's. */
export function readCredentials(given: {
  readonly cert: string | Uint8Array;
  readonly key: string | Uint8Array;
  readonly ca: string | Uint8Array;
}): Credentials {
  const cert = text('cert', given.cert);
  const key = text('key', given.key);
  const ca = text('ca', given.ca);
  const own = certificateIn('cert', cert);
  certificateIn('ca', ca);
  try {
    createSecureContext({ cert, key, ca });
  } catch (error) {
    throw invalid(`key is not PEM, or not the key of cert: ${messageOf(error)}`, error);
  }
  return { cert, key, ca, own };
}

function text(name: string, value: string | Uint8Array): string {
  if (value instanceof Uint8Array) return text(name, Buffer.from(value).toString('latin1'));
  if (typeof value !== 'string' || value === '') throw invalid(`${name} is missing`);
  return value;
}

const pemCertificate = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

/** The first certificate. All are read: Node passes over one that it cannot read, and trust would be less than was meant. */
function certificateIn(name: string, pem: string): X509Certificate {
  try {
    const [first] = (pem.match(pemCertificate) ?? []).map((one) => new X509Certificate(one));
    if (first !== undefined) return first;
  } catch (error) {
    throw invalid(`${name} holds a damaged certificate: ${messageOf(error)}`, error);
  }
  throw invalid(`${name} holds no certificate in PEM`);
}

function invalid(what: string, cause?: unknown): MigrationError {
  return new MigrationError('invalid-argument', `tls: ${what}`, { cause });
}

/** Throws `certificate-expired` if the certificate is not valid at the moment. */
export function checkValidNow({ validFrom, validTo }: X509Certificate): void {
  const now = Date.now();
  if (now < Date.parse(validFrom) || now > Date.parse(validTo)) {
    throw new MigrationError(
      'certificate-expired',
      `tls: this end's own certificate is valid from ${validFrom} to ${validTo}, and not now`,
    );
  }
}

/** What Node says when it does not take a peer's certificate, and OpenSSL when the peer does not take ours. */
const codes: Readonly<Record<string, ErrorCode>> = {
  ERR_TLS_CERT_ALTNAME_INVALID: 'certificate-host',
  ERR_TLS_CERT_ALTNAME_FORMAT: 'certificate-host',
  CERT_HAS_EXPIRED: 'certificate-expired',
  CERT_NOT_YET_VALID: 'certificate-expired',
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_EXPIRED: 'certificate-expired',
  UNABLE_TO_GET_ISSUER_CERT: 'certificate-untrusted',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'certificate-untrusted',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'certificate-untrusted',
  UNABLE_TO_DECRYPT_CERT_SIGNATURE: 'certificate-untrusted',
  UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY: 'certificate-untrusted',
  SELF_SIGNED_CERT_IN_CHAIN: 'certificate-untrusted',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'certificate-untrusted',
  CERT_SIGNATURE_FAILURE: 'certificate-untrusted',
  CERT_CHAIN_TOO_LONG: 'certificate-untrusted',
  CERT_REVOKED: 'certificate-untrusted',
  CERT_UNTRUSTED: 'certificate-untrusted',
  CERT_REJECTED: 'certificate-untrusted',
  INVALID_CA: 'certificate-untrusted',
  INVALID_PURPOSE: 'certificate-untrusted',
  PATH_LENGTH_EXCEEDED: 'certificate-untrusted',
  UNSPECIFIED: 'certificate-untrusted',
  ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE: 'certificate-untrusted',
  ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED: 'certificate-untrusted',
  ERR_SSL_TLSV1_ALERT_UNKNOWN_CA: 'certificate-untrusted',
  ERR_SSL_TLSV1_ALERT_ACCESS_DENIED: 'certificate-untrusted',
  ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE: 'certificate-untrusted',
  ERR_SSL_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE: 'certificate-untrusted',
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_REVOKED: 'certificate-untrusted',
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_UNKNOWN: 'certificate-untrusted',
};

/** A handshake's failure in our codes; `connect-failed` if it was not about a certificate. */
export function handshakeError(label: string, error: Error & { readonly code?: string }): MigrationError {
  const { code = '' } = error;
  const about = codes[code];
  const whose = code.includes('_ALERT_')
    ? "the peer does not take this end's certificate"
    : "the peer's certificate";
  const said = code === error.message ? code : `${error.message} (${code})`;
  const what = about === undefined ? 'no TLS handshake' : whose;
  return new MigrationError(about ?? 'connect-failed', `${label}: ${what}: ${said}`, { cause: error });
}
