export { type TcpAddress, type TcpOptions, type TcpTransport, tcp } from './tcp.ts';
