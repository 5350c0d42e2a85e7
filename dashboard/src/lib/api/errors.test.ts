import { expect, it } from 'vitest';

import { ApiError, describe, describeField, fromAnswer } from './errors';

it('takes code, field and request id from the API’s error', () => {
	const body = {
		error: { code: 'invalid_request', message: 'vcpus must be 1 to 64', request_id: 'r', field: 'vcpus' }
	};
	const error = fromAnswer(400, body, null);
	expect(error).toMatchObject({ code: 'invalid_request', status: 400, field: 'vcpus', requestId: 'r' });
	expect(describe(error)).toBe('Vcpus must be 1 to 64.');
	expect(describeField(error)).toBe('Must be 1 to 64.');
});

it('says when to try again, and what to quote of a server’s own failure', () => {
	expect(describe(fromAnswer(429, { error: { code: 'rate_limited', message: 'too many' } }, '7'))).toBe(
		'Too many. Try again in 7 s.'
	);
	expect(describe(new ApiError('internal', 'Something broke.', 500, 'req-1'))).toContain('req-1');
});

it('survives an answer that is no JSON error', () => {
	expect(fromAnswer(502, undefined, null)).toMatchObject({ code: 'unexpected', status: 502 });
	expect(fromAnswer(502, { error: 'text' }, null)).toMatchObject({ code: 'unexpected' });
});
