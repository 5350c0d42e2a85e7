// A line to a server that can be cut, as networks are: what is connected breaks off, and nobody gets through until it is
// mended.
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

export class Line {
	#whole = true;
	#sockets = new Set<Socket>();
	#server = createServer((near) => {
		if (!this.#whole) {
			near.destroy();
			return;
		}
		const far = connect(this.to.port, this.to.host);
		for (const socket of [near, far]) {
			this.#sockets.add(socket);
			socket.on('error', () => socket.destroy());
			socket.on('close', () => {
				this.#sockets.delete(socket);
				near.destroy();
				far.destroy();
			});
		}
		near.pipe(far).pipe(near);
	});
	url = '';

	private constructor(private readonly to: { host: string; port: number }) {}

	static async to(address: string): Promise<Line> {
		const { hostname, port } = new URL(address);
		const line = new Line({ host: hostname, port: Number(port) });
		await new Promise<void>((listening) => line.#server.listen(0, '127.0.0.1', listening));
		line.url = `http://127.0.0.1:${(line.#server.address() as AddressInfo).port}`;
		return line;
	}

	cut(): void {
		this.#whole = false;
		for (const socket of this.#sockets) socket.destroy();
	}

	mend(): void {
		this.#whole = true;
	}

	end(): void {
		this.cut();
		this.#server.close();
	}
}
