// One error for everything that can go wrong with a request, and one place that words it for people.

export interface ErrorBody {
	error: { code: string; message: string; request_id?: string; field?: string; [detail: string]: unknown };
}

export class ApiError extends Error {
	override name = 'ApiError';

	constructor(
		/** The API's error code, or `unreachable` when no answer came. */
		readonly code: string,
		message: string,
		readonly status = 0,
		readonly requestId?: string,
		/** The field of the request that was wrong. */
		readonly field?: string,
		readonly retryAfter?: number,
		/** What else the answer says: `sandbox_ids` of a host that has some, and the like. */
		readonly details: Record<string, unknown> = {}
	) {
		super(message);
	}
}

function isErrorBody(body: unknown): body is ErrorBody {
	const error = (body as ErrorBody | null)?.error;
	return typeof error?.code === 'string' && typeof error.message === 'string';
}

/** The error that an answer stands for. */
export function fromAnswer(status: number, body: unknown, retryAfter: string | null): ApiError {
	const seconds = retryAfter === null ? undefined : Number.parseInt(retryAfter, 10) || undefined;
	if (isErrorBody(body)) {
		const { code, message, request_id, field, ...details } = body.error;
		return new ApiError(code, message, status, request_id, field, seconds, details);
	}
	return new ApiError(
		'unexpected',
		`The server answered ${status} with something that is no JSON error.`,
		status
	);
}

export const unreachable = () =>
	new ApiError('unreachable', 'The server can’t be reached. Is it running, and is the network up?');

/** Whatever was thrown, as one of ours. */
export const asApiError = (error: unknown) =>
	error instanceof ApiError ? error : new ApiError('unexpected', describe(error));

/** For people: the message, when to try again, and what to quote when asking for help. */
export function describe(error: unknown): string {
	if (!(error instanceof ApiError)) return error instanceof Error ? error.message : String(error);
	const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : '';
	const quote = error.status >= 500 && error.requestId ? ` (request ${error.requestId})` : '';
	return sentence(error.message) + wait + quote;
}

/** The same under the field that it is about: the label says the name already. */
export function describeField(error: ApiError): string {
	const { field, message } = error;
	return sentence(field && message.startsWith(`${field} `) ? message.slice(field.length + 1) : message);
}

/** What is wrong with a field, if it is this one. */
export const problemAt = (problem: ApiError | null, field: string): string | null =>
	problem?.field === field ? describeField(problem) : null;

function sentence(text: string): string {
	const first = text.charAt(0).toUpperCase() + text.slice(1);
	return /[.!?]$/.test(first) ? first : `${first}.`;
}
