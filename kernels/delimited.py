"""Delimited text: the numbers in a block of lines, and where its texts are.

A number is read as the integer of its digits, at most 19, and a power of ten of at most 22.  Where both are exact in
float64, one division rounds to nearest [1]_; longer integers are divided in two parts, and the quotient is kept only if
it is clear to which side it rounds.  Everything else is left to the caller.

.. [1] W. D. Clinger (1990), How to read floating point numbers accurately, PLDI.
"""

import numpy as np

from .jit import internal
from .native import native
from .simd import fma

SKIP, NUMBER, TEXT = range(3)  # kinds of columns
WHOLE, DECIMAL, THREE_DECIMALS = 1, 2, 4  # forms of numbers; the last, as 1.234, may also be grouped thousands
OTHER_FORM = -1  # returned where a line has another number of cells, or there are quotes within a cell
TAB, NEWLINE, RETURN, SPACE, PLUS, MINUS, ZERO = 9, 10, 13, 32, 43, 45, 48
LOWER_E, UPPER_E = 101, 69
MAX_DIGITS, MAX_POWER = 19, 22
EXACT = np.uint64(1 << 53)  # integers up to here are exact in float64
MARGIN = 1e-6  # of a remainder, that is about half a step
TOO_MANY = 1000  # digits of an exponent


@internal
def power_of_ten(k):
    """Return 10**k for k from 0 to 22, which is exact."""
    power, factor = 1.0, 10.0
    while k > 0:
        if k & 1:
            power *= factor
        factor *= factor
        k >>= 1
    return power


@internal
def scaled(digits, exponent):
    """Return the float64 nearest to digits * 10**exponent; NaN where that is not clear."""
    high = float(digits)
    power = power_of_ten(abs(exponent))
    first = high * power if exponent >= 0 else high / power
    if digits <= EXACT:
        return first
    low = float(np.int64(digits - np.uint64(high)))  # the difference wraps around
    if exponent >= 0:
        rest = fma(high, power, -first) + low * power
    else:
        rest = (fma(-first, power, high) + low) / power
    value = first + rest
    error = rest - (value - first)  # what was rounded off, exactly
    neighbor = value + 2.0 * error  # the next number where half a step was rounded off
    is_clear = error == 0.0 or abs(abs(neighbor - value) - 2.0 * abs(error)) > MARGIN * abs(error)
    return value if is_clear else float("nan")


@native("biiiiioopooooo")
def parse(data, n, delimiter, decimal, quote, n_columns, kinds, forms, values, starts, ends, bad, lines, counts):
    """Parse a block of lines.

    Parameters
    ----------
    data : uint8 (n,), complete lines, each ended by a line feed.
    n, delimiter, decimal, quote, n_columns : integers; quote is 0 where none has a meaning.
    kinds : int64 (n_columns,), of `SKIP`, `NUMBER`, `TEXT`.
    forms : int64 (n_columns,), to which `WHOLE`, `DECIMAL` or `THREE_DECIMALS` is added by "or" for each number.
    values : float64 (n_rows, n_numbers), written; NaN where a cell is empty, or bad.
    starts, ends : int64 (n_rows, n_texts), written: where the texts are, without quotes and spaces around them.
    bad : int64 (n_bad, 4), written: row, number of the column, start and end of cells of numbers that hold other text.
    lines : int64 (n_rows,), written: number of lines before each row in the block.
    counts : int64 (2,), written: numbers of bad cells and of lines.

    Returns
    -------
    The number of rows, or `OTHER_FORM`.
    """
    i, row, line, n_bad, number, text = 0, 0, 0, 0, 0, 0
    while i < n:
        at = i
        while data[at] == SPACE or data[at] == RETURN or (data[at] == TAB and delimiter != TAB):
            at += 1
        if data[at] == NEWLINE:  # a blank line
            i = at + 1
            line += 1
            continue
        lines[row] = line
        for j in range(n_columns):
            kind = kinds[j]
            if delimiter != SPACE:
                while data[i] == SPACE or (data[i] == TAB and delimiter != TAB):
                    i += 1
            start, end, is_number = i, i, False
            if quote != 0 and data[i] == quote:
                i += 1
                start = i
                while i < n and data[i] != quote:
                    line += data[i] == NEWLINE
                    i += 1
                end = i
                i += 1
                while i < n and (data[i] == SPACE and delimiter != SPACE or data[i] == RETURN):
                    i += 1
                if i >= n or (data[i] != delimiter and data[i] != NEWLINE):
                    return OTHER_FORM
                while end > start and data[end - 1] == SPACE:
                    end -= 1
                while start < end and data[start] == SPACE:
                    start += 1
            elif kind == NUMBER:
                k, digits, n_digits, exponent, any_digit = i, np.uint64(0), 0, 0, False
                if data[k] == MINUS or data[k] == PLUS:
                    k += 1
                while ZERO <= data[k] <= ZERO + 9:
                    any_digit = True
                    if n_digits or data[k] != ZERO:
                        n_digits += 1
                    if n_digits <= MAX_DIGITS:
                        digits = np.uint64(10) * digits + np.uint64(data[k] - ZERO)
                    k += 1
                n_whole, form = k - start, WHOLE
                if data[k] == decimal:
                    k += 1
                    form = DECIMAL
                    while ZERO <= data[k] <= ZERO + 9:
                        any_digit = True
                        if n_digits or data[k] != ZERO:
                            n_digits += 1
                        if n_digits <= MAX_DIGITS:
                            digits = np.uint64(10) * digits + np.uint64(data[k] - ZERO)
                        exponent -= 1
                        k += 1
                if exponent == -3 and 0 < n_whole <= 4 and n_digits > 3 and n_digits <= 6:
                    form = THREE_DECIMALS
                if any_digit and (data[k] == LOWER_E or data[k] == UPPER_E):
                    m, sign, power, has_power = k + 1, 1, 0, False
                    if data[m] == MINUS or data[m] == PLUS:
                        sign = -1 if data[m] == MINUS else 1
                        m += 1
                    while ZERO <= data[m] <= ZERO + 9:
                        has_power = True
                        power = min(10 * power + (data[m] - ZERO), TOO_MANY)
                        m += 1
                    if has_power:
                        exponent += sign * power
                        k = m
                m = k
                while data[m] == RETURN or (data[m] == SPACE and delimiter != SPACE):
                    m += 1
                if data[m] == delimiter or data[m] == NEWLINE:
                    if any_digit and n_digits <= MAX_DIGITS and (n_digits == 0 or abs(exponent) <= MAX_POWER):
                        value = scaled(digits, 0 if n_digits == 0 else exponent)
                        if value == value:
                            values[number] = -value if data[start] == MINUS else value
                            is_number = True
                            forms[j] |= form
                    end = k
                    i = m
                else:
                    while data[i] != delimiter and data[i] != NEWLINE:
                        i += 1
                    end = i
            else:
                while data[i] != delimiter and data[i] != NEWLINE:
                    i += 1
                end = i
            while end > start and (data[end - 1] == SPACE or data[end - 1] == RETURN or data[end - 1] == TAB):
                end -= 1
            if kind == NUMBER:
                if not is_number:
                    values[number] = float("nan")
                    if end > start:
                        bad[4 * n_bad], bad[4 * n_bad + 1] = row, j
                        bad[4 * n_bad + 2], bad[4 * n_bad + 3] = start, end
                        n_bad += 1
                number += 1
            elif kind == TEXT:
                starts[text], ends[text] = start, end
                text += 1
            if (data[i] == NEWLINE) != (j == n_columns - 1):
                return OTHER_FORM
            i += 1
        row += 1
        line += 1
    counts[0], counts[1] = n_bad, line
    return row
