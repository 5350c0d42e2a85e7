import { expect, it } from 'vitest';

import { Parser } from './sse';

it('finds events however the text is cut', () => {
	const text =
		': hello\n\nevent: sandbox.updated\nid: 7\ndata: {"a":1}\n\ndata: one\r\ndata: two\r\n\r\ndata: late';
	for (let size = 1; size <= text.length; size += 1) {
		const parser = new Parser();
		const sent = [];
		for (let at = 0; at < text.length; at += size) sent.push(...parser.push(text.slice(at, at + size)));
		expect(sent).toEqual([
			{ event: 'sandbox.updated', id: '7', data: '{"a":1}' },
			{ event: 'message', id: '7', data: 'one\ntwo' }
		]);
	}
});
