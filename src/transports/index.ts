export type { TcpAddress, TcpOptions, TcpPath } from './socket-address.ts';
export type { TcpTransport } from './socket-transport.ts';
export { tcp } from './tcp.ts';
export { type TlsOptions, tls } from './tls.ts';
